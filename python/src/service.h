#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "cambium/cambium.h"

namespace cambium::python {

// What one pass told of a request.
struct Piece {
  std::string text;
  int32_t id = -1;  // -1: the end, with what was held back
  int origin = Generation::kPlain;
  std::optional<float> logprob;
  std::vector<TokenLogprob> top;
};

// A request's events, from the thread that steps to whoever takes them.
class Stream {
 public:
  // The next, or nothing where the request has ended (then it throws what that failed with, once) or `milliseconds`
  // have passed.
  std::optional<Piece> Next(int milliseconds);
  bool ended() const;
  // The whole answer; waits so long. Throws as Next does.
  std::optional<Generation> Result(int milliseconds);
  // Has a byte count of 1 written to the eventfd at the next event; false where there is something to take already.
  bool Wake(int eventfd);

 private:
  friend class Service;
  void Push(const Event& event);
  void End(std::exception_ptr error);
  void Tell();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;
  bool ended_ = false;
  std::exception_ptr error_;
  Generation generation_;
  int eventfd_ = -1;
};

// An engine, and the one thread that steps it: many requests from any thread share its passes.
class Service {
 public:
  Service(const Model& model, const EngineOptions& options);
  ~Service();  // ends what is under way with an Error

  struct Ticket {
    RequestId id;
    std::shared_ptr<Stream> stream;
  };
  Ticket Submit(Request request);
  void Cancel(RequestId id);
  Engine& engine() { return engine_; }

 private:
  void Run();
  struct Entry {
    std::shared_ptr<Stream> stream;
    bool claimed = false, over = false;  // Submit has returned it; its end was told
  };
  Entry& At(RequestId id);  // under the mutex; made where a pass comes before Submit
  void Tell(const Event& event);

  Engine engine_;
  std::mutex mutex_;
  std::condition_variable work_;
  bool stop_ = false, asked_ = false;
  std::map<RequestId, Entry> streams_;
  std::thread thread_;
};

}  // namespace cambium::python
