#include <chrono>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/isa.h"
#include "engine/impl.h"
#include "grafts/grafts.h"
#include "io/chat_template.h"
#include "io/model_cache.h"
#include "model/heads.h"

namespace cambium {
namespace {

int ThreadCount(int asked) {
  if (asked < 0 || asked > 1024) Fail(ErrorCode::kUsage, "threads is ", asked, ", expected 1 to 1024");
  return asked == 0 ? DefaultThreads() : asked;
}

}  // namespace

Model::Impl::Impl(const std::string& model, int threads)
    : path(ResolveModel(model)),
      pool(ThreadCount(threads)),
      transformer(LoadWeights(pool, path), pool),
      tokenizer(LoadTokenizer(path)) {
  const ModelConfig& c = transformer.config();
  if (tokenizer.vocab_size() > c.vocab) {
    Fail(ErrorCode::kData, path, ": the tokenizer has ", tokenizer.vocab_size(), " tokens, the embedding ", c.vocab,
         " rows");
  }
  info = {path,
          c.family,
          c.layers,
          c.hidden,
          c.vocab,
          c.context,
          static_cast<int64_t>(transformer.weights().bytes()),
          pool.threads(),
          0};
}

std::string ModelInfo::Describe() const {
  std::ostringstream text;
  text << family << ", " << layers << " layers, hidden " << hidden << ", vocabulary " << vocab << ", "
       << (weight_bytes >> 20) << " MiB of weights";
  return text.str();
}

Model Model::Load(const std::string& model, int threads) {
  ApplyIsaFromEnv();
  const auto start = std::chrono::steady_clock::now();
  auto impl = std::make_shared<Impl>(model, threads);
  impl->info.load_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return Model(std::move(impl));
}

const ModelInfo& Model::info() const { return impl_->info; }

std::vector<int32_t> Model::Tokenize(std::string_view text, bool special, bool add_bos) const {
  return impl_->tokenizer.Encode(text, add_bos, special);
}

std::string Model::Detokenize(std::span<const int32_t> ids) const {
  Utf8Stream utf8;
  std::string text = utf8.Push(impl_->tokenizer.Decode(ids));
  return text + utf8.Finish();
}

std::string Model::Piece(int32_t id) const { return std::string(impl_->tokenizer.Piece(id)); }
bool Model::IsEnd(int32_t id) const { return impl_->tokenizer.IsEndOfGeneration(id); }

Adapter AdapterIn(const Model& model, const std::string& path, std::shared_ptr<void> folder) {
  auto impl = std::make_shared<Adapter::Impl>(model.shared(), path);
  impl->folder = std::move(folder);
  impl->At(1);
  return Adapter(std::move(impl));
}

Adapter Adapter::Load(const Model& model, const std::string& path) { return AdapterIn(model, path, nullptr); }

const std::string& Adapter::path() const { return impl_->path; }

std::vector<std::string> Adapter::kinds() const {
  std::vector<std::string> kinds;
  for (const auto& part : impl_->At(1)->parts) kinds.push_back(part->kind());
  return kinds;
}

int64_t Adapter::slots() const {
  int64_t slots = 0;
  for (const auto& part : impl_->At(1)->parts) slots += part->slots_before();
  return slots;
}

std::shared_ptr<Adapter::Impl::Scaled> Adapter::Impl::At(float scale) {
  static std::atomic<uint64_t> keys{0};
  const std::lock_guard lock(mutex);
  std::shared_ptr<Scaled>& scaled = scales[scale];
  if (scaled == nullptr) {
    const std::lock_guard computing(model->compute);
    scaled = std::make_shared<Scaled>(Scaled{model, LoadGrafts(path, model->transformer.base(), scale), ++keys});
  }
  return scaled;
}

}  // namespace cambium
