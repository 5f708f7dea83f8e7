#include "train/plan.h"

#include <algorithm>
#include <chrono>
#include <fstream>

#include "cambium/error.h"

namespace cambium {
namespace {

int64_t StatusBytesOf(const char* file, const std::string& field) {
  std::ifstream status(file);
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field)) return std::stoll(line.substr(field.size())) * 1024;
  }
  return 0;
}

// About `rows` rows in sequences as long as the data's are on average, every token trained.
std::vector<Example> Probe(const std::vector<Example>& examples, int64_t rows) {
  int64_t tokens = 0;
  for (const Example& example : examples) tokens += static_cast<int64_t>(example.ids.size());
  const int64_t length = std::clamp<int64_t>(tokens / static_cast<int64_t>(examples.size()), 2, rows);
  std::vector<int32_t> stream;
  for (size_t i = 0; static_cast<int64_t>(stream.size()) < rows; i = (i + 1) % examples.size()) {
    stream.insert(stream.end(), examples[i].ids.begin(), examples[i].ids.end());
  }
  std::vector<Example> probe;
  for (int64_t begin = 0; begin < rows; begin += length) {
    const int64_t end = std::min(rows, begin + length);
    Example& example = probe.emplace_back();
    example.ids.assign(stream.begin() + begin, stream.begin() + end);
    example.trained.assign(example.ids.size(), 1);
    example.trained[0] = 0;
  }
  return probe;
}

// A round moves all gradients but a rank's own stretch to their owners, and the step's end the new values from them.
void Share(TrainPlan& plan, int64_t micro_batches, int ranks) {
  if (micro_batches < ranks) {
    Fail(ErrorCode::kUsage, "--accumulate is ", micro_batches, ", but there are ", ranks,
         " ranks: they share a step's micro-batches, so give at least as many");
  }
  plan.ranks = ranks;
  plan.rounds = (micro_batches + ranks - 1) / ranks;
  const int64_t others = plan.parameters * int64_t{sizeof(float)} / ranks * (ranks - 1);
  plan.bytes_sent = plan.rounds * others + others;
  plan.step_seconds = static_cast<double>(plan.rounds * plan.max_rows) / plan.tokens_per_s;
}

}  // namespace

int64_t PeakResidentBytes() { return StatusBytesOf("/proc/self/status", "VmHWM:"); }

TrainPlan MakePlan(Trainer& trainer, Transformer& model, const std::vector<Example>& examples,
                   const BatchOptions& batch, int ranks) {
  TrainPlan plan;
  plan.parameters = trainer.optimizer().parameters();
  plan.steps = trainer.total_steps();
  Batches batches(examples, batch);
  DataCursor cursor;
  int64_t epoch_steps = 0, epoch_rows = 0;
  while (cursor.epoch == 0) {
    epoch_rows += batches.Next(cursor).rows;
    ++epoch_steps;
  }
  plan.rows = static_cast<int64_t>(static_cast<double>(epoch_rows) * static_cast<double>(plan.steps) /
                                   static_cast<double>(epoch_steps));
  plan.max_rows = batches.MaxRows(0);

  const auto probe = [&](int64_t rows) {
    const std::vector<Example> some = Probe(examples, rows);
    std::vector<const Example*> micro;
    for (const Example& example : some) micro.push_back(&example);
    const auto start = std::chrono::steady_clock::now();
    trainer.ForwardBackward(micro, 1e-6f, 0);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    plan.tokens_per_s = static_cast<double>(rows) / elapsed.count();
    return static_cast<int64_t>(trainer.tape_bytes() + model.workspace().peak_bytes());
  };
  // A small one says whether the real one fits at all; memory grows no faster than the rows.
  const int64_t small_rows = std::min<int64_t>(128, plan.max_rows);
  const int64_t small = probe(small_rows);
  const int64_t available = StatusBytesOf("/proc/meminfo", "MemAvailable:");
  const int64_t bound = small / small_rows * plan.max_rows;
  if (available > 0 && bound > available) {
    Fail(ErrorCode::kResource, "micro-batches of ", plan.max_rows, " tokens need up to ", bound >> 20, " MiB, ",
         available >> 20, " MiB are available; lower the batch size or --seq-len, or checkpoint activations");
  }
  probe(plan.max_rows);
  plan.peak_bytes = PeakResidentBytes();
  // Large buffers are mapped in huge pages (tensor/buffer.cc), and take memory only once the first step writes them.
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const int64_t to_come = trainer.optimizer().bytes_to_come(batch.accumulate);
  if (to_come >= kHugePage) plan.peak_bytes += (to_come + kHugePage - 1) / kHugePage * kHugePage;
  plan.seconds = static_cast<double>(plan.rows) / plan.tokens_per_s;
  if (ranks > 1) Share(plan, batch.accumulate, ranks);
  return plan;
}

std::vector<PreviewPart> PreviewParts(const Example& example, const Tokenizer& tokenizer, int64_t max_tokens) {
  std::vector<PreviewPart> parts;
  const size_t shown = std::min(example.ids.size(), static_cast<size_t>(max_tokens));
  for (size_t i = 0; i < shown; ++i) {
    const bool trained = example.trained[i] != 0;
    if (parts.empty() || parts.back().trained != trained) parts.push_back({"", trained});
    parts.back().text += tokenizer.Piece(example.ids[i]);
  }
  if (shown < example.ids.size()) parts.push_back({" ...", false});
  return parts;
}

std::string MaskPreview(const Example& example, const Tokenizer& tokenizer, bool color, int64_t max_tokens) {
  std::string text;
  for (const PreviewPart& part : PreviewParts(example, tokenizer, max_tokens)) {
    if (part.trained) text += color ? "\033[32m" : "[";
    text += part.text;
    if (part.trained) text += color ? "\033[0m" : "]";
  }
  return text;
}

}  // namespace cambium
