#include "cli/distill.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>

#include "decode/scheduler.h"
#include "io/atomic_file.h"
#include "io/json_lines.h"

namespace cambium::cli {
namespace {

// What the answers depend on; stands in the file's first line.
nlohmann::ordered_json Settings(const TrainFlags& flags, const Dataset& prompts) {
  return {{"model", flags.graft_options.base}, {"graft", flags.with_graft},
          {"prompts", Fingerprint(prompts.examples)}, {"tokens", flags.distill_tokens},
          {"length", flags.sequence_length},
          {"temperature", fmt::format("{}", flags.distill_temp)}, {"seed", flags.distill_temp > 0 ? flags.train.seed : 0}};
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

Dataset Distill(TrainSession& session, const TrainFlags& flags) {
  if (flags.directory.empty()) Fail(ErrorCode::kUsage, "--distill: a plan answers no prompts; plan with --data");
  DatasetOptions options = flags.dataset;
  options.prompts = true;
  const Dataset prompts = LoadDataset(flags.distill, session.tokenizer, options);
  const std::string path = (flags.bundle.empty() ? flags.directory : flags.bundle) + "/distilled.jsonl";
  nlohmann::ordered_json settings = Settings(flags, prompts);
  if (Answered(path, settings)) {
    Note(flags.output, fmt::format("distilled   {}: answers of an earlier run", path));
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
    const auto grafts = GraftsOf(flags.train.heads.trunk);
    SchedulerOptions scheduling;
    scheduling.parallel = 32;
    KvCache kv(session.model->config(), DType::kF16, scheduling.parallel * (grafts->slots_before() + flags.sequence_length + 64));
    Scheduler scheduler(*session.model, kv, scheduling);
    for (size_t i = 0; i < answers.size(); ++i) {
      DecodeRequest request;
      request.prompt = prompts.examples[i].ids;
      request.grafts = grafts;
      request.sampling.temperature = flags.distill_temp;
      request.sampling.seed = flags.train.seed;
      request.max_tokens = flags.distill_tokens;
      request.context = flags.sequence_length;
      request.vocabulary = session.tokenizer.text_size();
      request.end_tokens = session.tokenizer.end_of_generation();
      request.on_end = [&, i](const DecodeResult& result) {
        if (result.error) std::rethrow_exception(result.error);
        answers[i] = result.tokens;
        if (result.end_token >= 0) answers[i].push_back(result.end_token);
        tokens += answers[i].size();
        if (++done % every == 0 || done == answers.size()) Note(flags.output, said());
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
      nlohmann::ordered_json record = {{"answer", session.tokenizer.Decode(answers[i])}, {"input_ids", ids}, {"labels", labels}};
      if (i == 0) record["distilled"] = std::move(settings);
      file.Write(record.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
    }
    file.Commit();
  }
  options = flags.dataset;
  options.format = "ids";
  options.skip_bad = false;
  return LoadDataset(path, session.tokenizer, options);
}

}  // namespace cambium::cli
