#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <limits>

#include "decode/scheduler.h"
#include "engine/training_impl.h"
#include "io/atomic_file.h"
#include "io/json_lines.h"

namespace cambium {
namespace {

// What the answers depend on; stands in the file's first line.
nlohmann::ordered_json Settings(const Training::Impl& t, const Dataset& prompts) {
  const TrainConfig& c = t.config;
  return {{"model", t.m.path},
          {"graft", t.with_graft},
          {"prompts", Fingerprint(prompts.examples)},
          {"tokens", c.distill_tokens},
          {"length", c.seq_len},
          {"temperature", fmt::format("{}", c.distill_temp)},
          {"seed", c.distill_temp > 0 ? c.seed : 0}};
}

// Whether the answers are there already.
bool Answered(const std::string& path, const nlohmann::ordered_json& settings) {
  if (!std::filesystem::exists(path)) return false;
  JsonLines lines(path);
  const bool any = lines.Next() && lines.record().is_object();
  nlohmann::ordered_json before;
  if (any) before = lines.record().value("distilled", before);
  for (const auto& [name, value] : settings.items()) {
    nlohmann::ordered_json old;
    if (before.is_object()) old = before.value(name, old);
    if (old != value) {
      Fail(ErrorCode::kUsage, path, ": answers with ", name, " ", old.dump(), ", now it is ", value.dump(),
           "; remove the file to have the prompts answered again");
    }
  }
  return true;
}

}  // namespace

Dataset Distill(Training::Impl& t) {
  const TrainConfig& c = t.config;
  if (c.output.empty()) Fail(ErrorCode::kUsage, "--distill: a plan answers no prompts; plan with --data");
  DatasetOptions options = t.setup.dataset;
  options.prompts = true;
  const Dataset prompts = LoadDataset(c.distill, t.m.tokenizer, options);
  const std::string path = t.bundle() + "/distilled.jsonl";
  nlohmann::ordered_json settings = Settings(t, prompts);
  if (Answered(path, settings)) {
    t.lines(fmt::format("distilled   {}: answers of an earlier run", path));
  } else {
    std::vector<std::vector<int32_t>> answers(prompts.examples.size());
    size_t done = 0, tokens = 0;
    const auto start = std::chrono::steady_clock::now();
    const auto said = [&] {
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      return fmt::format("distilled   {} of {} prompts, {} tokens, {:.0f} tokens/s", done, answers.size(), tokens,
                         static_cast<double>(tokens) / elapsed.count());
    };
    const size_t every = std::max<size_t>(1, answers.size() / 10);
    const auto grafts = GraftsOf(t.setup.train.heads.trunk);
    SchedulerOptions scheduling;
    scheduling.parallel = 32;
    scheduling.prefill_stretch = std::numeric_limits<double>::infinity();
    KvCache kv(t.transformer.config(), DType::kF16, scheduling.parallel * (grafts->slots_before() + c.seq_len + 64));
    Scheduler scheduler(t.transformer, kv, scheduling);
    for (size_t i = 0; i < answers.size(); ++i) {
      DecodeRequest request;
      request.prompt = prompts.examples[i].ids;
      request.grafts = grafts;
      request.sampling.temperature = c.distill_temp;
      request.sampling.seed = c.seed;
      request.max_tokens = c.distill_tokens;
      request.context = c.seq_len;
      request.vocabulary = t.m.tokenizer.text_size();
      request.end_tokens = t.m.tokenizer.end_of_generation();
      request.on_end = [&, i](const DecodeResult& result) {
        if (result.error) std::rethrow_exception(result.error);
        answers[i] = result.tokens;
        if (result.end_token >= 0) answers[i].push_back(result.end_token);
        tokens += answers[i].size();
        if (++done % every == 0 || done == answers.size()) t.lines(said());
      };
      scheduler.Add(std::move(request));
    }
    while (scheduler.Step()) {
    }
    AtomicFile file(path);
    for (size_t i = 0; i < answers.size(); ++i) {
      std::vector<int32_t> ids = prompts.examples[i].ids, labels(ids.size(), -100);
      ids.insert(ids.end(), answers[i].begin(), answers[i].end());
      labels.insert(labels.end(), answers[i].begin(), answers[i].end());
      nlohmann::ordered_json record = {
          {"answer", t.m.tokenizer.Decode(answers[i])}, {"input_ids", ids}, {"labels", labels}};
      if (i == 0) record["distilled"] = std::move(settings);
      file.Write(record.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
    }
    file.Commit();
  }
  options = t.setup.dataset;
  options.format = "ids";
  options.skip_bad = false;
  return LoadDataset(path, t.m.tokenizer, options);
}

}  // namespace cambium
