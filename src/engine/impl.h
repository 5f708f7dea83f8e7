#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/parallel.h"
#include "base/turns.h"
#include "cambium/cambium.h"
#include "decode/scheduler.h"
#include "engine/loop_guard.h"
#include "engine/text_stream.h"
#include "grammar/vocabulary.h"
#include "io/dialogue.h"
#include "io/tokenizer.h"
#include "io/unicode.h"
#include "model/transformer.h"

namespace cambium {

struct Model::Impl {
  Impl(const std::string& model, int threads);

  std::string path;  // resolved
  ThreadPool pool;
  Transformer transformer;
  Tokenizer tokenizer;
  DialogueEncoder dialogues{tokenizer};
  ModelInfo info;
  const std::shared_ptr<const Vocabulary>& vocabulary();  // made where it is first asked for
  std::once_flag vocabulary_made;
  std::shared_ptr<const Vocabulary> vocabulary_tree;
  // Held by who runs the transformer or the pool: a step of an engine or a training, or the loading of an adapter.
  Turns compute;

  std::mutex users;  // guards what follows; nothing is waited for under it
  int64_t engines = 0;
  bool trained = false, trained_whole = false;  // by a Training; its own weights change
};

struct Adapter::Impl {
  // The grafts at one scale. Their key is no other's, so what was computed with them is never taken for another's.
  struct Scaled {
    std::shared_ptr<Model::Impl> model;  // goes after the grafts that act on it
    std::vector<std::unique_ptr<Graft>> parts;
    uint64_t key;
    bool frozen = false;  // its heads, for serving
  };
  Impl(std::shared_ptr<Model::Impl> on, std::string from) : model(std::move(on)), path(std::move(from)) {}
  // Loads where it was not yet. Takes model->compute.
  std::shared_ptr<Scaled> At(float scale);

  std::shared_ptr<Model::Impl> model;
  std::string path;
  std::mutex mutex;
  std::map<float, std::shared_ptr<Scaled>> scales;
  std::shared_ptr<void> folder;  // that `path` lies in, where nobody else keeps it
};
// The adapter at `path`, whose files live as long as `folder`.
Adapter AdapterIn(const Model& model, const std::string& path, std::shared_ptr<void> folder);

// An engine's mark on its model.
class EngineMark {
 public:
  explicit EngineMark(Model::Impl& model);
  ~EngineMark();
  EngineMark(const EngineMark&) = delete;
  EngineMark& operator=(const EngineMark&) = delete;

 private:
  Model::Impl& model_;
};

struct Engine::Impl {
  static constexpr int64_t kMostRows = 1024;  // of a request in a verifying pass

  Impl(const Model& model, const EngineOptions& options);
  ~Impl();  // keeps what passes cost

  // A request that was submitted, until its end was told.
  struct Active {
    Active(RequestId number, const Request& request);
    RequestId id;
    Scheduler::Id scheduled = 0;
    std::atomic<bool> cancelled = false;
    StopFilter filter;
    Utf8Stream utf8;
    Generation generation;
    int64_t min_tokens;
    std::optional<LoopGuard> guard;  // nothing: a loop goes on
    bool looped = false;
    std::vector<double> hidden_sum;  // over the prompt's rows, where an embedding is wanted
    std::shared_ptr<DrafterSet> drafters;
  };
  // Drafters of earlier requests stay, by their names and by the adapters that bring heads: a draft model is loaded
  // once, and what was learned of them is kept.
  struct Drafters {
    std::vector<std::string> specs;
    std::vector<std::shared_ptr<Adapter::Impl::Scaled>> carriers;
    std::shared_ptr<DrafterSet> set;
  };

  void MakeCache(int64_t slots);
  std::shared_ptr<const GraftSet> Grafts(const std::vector<AdapterUse>& adapters,
                                         std::vector<std::shared_ptr<Adapter::Impl::Scaled>>& carriers) const;
  std::shared_ptr<DrafterSet> DraftersFor(const std::vector<std::string>& specs,
                                          const std::vector<std::shared_ptr<Adapter::Impl::Scaled>>& carriers);
  // Room for a request of so many slots: a larger cache where nothing is under way.
  void MakeRoom(int64_t slots);
  DecodeRequest ToDecode(const Request& request);
  void Connect(const std::shared_ptr<Active>& active, const Request& request, DecodeRequest& decode);
  void Tell(const Event& event);
  void ReportPrompt(const std::shared_ptr<Active>& active, const Request& request, DecodeRequest& decode);
  void TellEnd(Active& active, const DecodeResult& result);
  bool Step(const Sink& sink);
  Generation Search(const Request& request, const Sink& sink);

  Model model;
  EngineOptions options;
  Model::Impl& m;
  EngineMark mark;
  Compute compute;
  int64_t context;
  std::unique_ptr<KvCache> kv;
  std::unique_ptr<KvCache> memory;  // of sources, in a model with an encoder
  std::unique_ptr<Scheduler> scheduler;

  // Taken in this order, each before the model's: `setup` guards the drafters and the making of the cache, `mail` what
  // Submit and Cancel leave for Step. Nothing is waited for under `mail`.
  std::mutex setup, mail;
  std::vector<Drafters> drafters;
  RequestId next = 1;
  std::vector<std::pair<std::shared_ptr<Active>, DecodeRequest>> submitted;
  std::map<RequestId, std::shared_ptr<Active>> active;

  const Sink* sink = nullptr;                          // of the step under way
  RequestId only = 0;                                  // whose events it gets; 0: all
  std::deque<std::function<void(const Sink&)>> later;  // other requests' events
};

}  // namespace cambium
