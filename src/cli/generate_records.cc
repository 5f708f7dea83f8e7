#include "cli/generate_records.h"

#include <fmt/format.h>

#include <chrono>
#include <map>

#include "cli/progress.h"
#include "cli/record_request.h"

namespace cambium::cli {
namespace {

using Json = nlohmann::ordered_json;

// Says how far a run is, with tokens a second.
class Meter {
 public:
  Meter(const OutputFlags& output, const RecordFile& file) : bar_(output.quiet), file_(file) {}

  void Add(int64_t tokens) {
    tokens_ += tokens;
    bar_.Update("records", static_cast<uint64_t>(file_.written()), static_cast<uint64_t>(file_.total()),
                fmt::format("{:.1f} tokens/s", Rate()));
  }
  std::string Summary() const {
    std::string text = fmt::format("{} records, {} before, {} tokens, {:.1f} tokens/s",
                                   file_.written() - file_.done_before(), file_.done_before(), tokens_, Rate());
    if (file_.refused() > 0) text += fmt::format("; {} could not be answered", file_.refused());
    return text;
  }

 private:
  double Rate() const {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
    return static_cast<double>(tokens_) / std::max(elapsed.count(), 1e-9);
  }

  ProgressBar bar_;
  const RecordFile& file_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  int64_t tokens_ = 0;
};

void NoteEnd(const OutputFlags& output, const RecordFlags& records, const RecordFile& file, const Meter& meter) {
  Note(output, meter.Summary() + (file.refused() > 0 ? ": see " + records.output + ".errors" : ""));
}

Json SettingsOf(const ModelFlags& model, const std::vector<std::string>& grafts) {
  return {{"model", model.model},
          {"exact", model.engine.exact},
          {"kv_type", model.kv_type},
          {"ctx_size", model.engine.context},
          {"grafts", grafts}};
}

Json LogprobsOf(const std::vector<TokenLogprob>& list) {
  Json all = Json::array();
  for (const TokenLogprob& one : list) all.push_back({{"id", one.id}, {"logprob", one.logprob}});
  return all;
}

class Run {
  static constexpr int64_t kParallel = 16;  // records under way at once

 public:
  Run(const RecordFlags& records, const GenerateFlags& generate, const ConstraintFlags& constraint,
      const ModelFlags& model, const OutputFlags& output)
      : flags_(generate),
        constraint_(constraint),
        engine_(LoadModel(Many(model), output, true)),
        defaults_(CheckedRequest(generate)),
        file_(records, Settings(model)),
        meter_(output, file_) {
    defaults_.constraint = ConstraintOf(constraint, engine_.model());
  }

  void All() {
    constexpr int64_t most = 2 * kParallel;
    file_.ForEach([&](int64_t index, int64_t line, const Json& record, const std::string& error) {
      while (std::ssize(under_way_) >= most || index - file_.written() >= 64 * most) Step();
      Begin(index, line, record, error);
      return true;
    });
    while (!under_way_.empty()) Step();
  }
  const RecordFile& file() const { return file_; }
  const Meter& meter() const { return meter_; }

 private:
  struct Open {
    int64_t index, line, prompt_tokens;
    Json id;
  };

  static ModelFlags Many(ModelFlags model) {
    model.engine.parallel = kParallel;
    model.engine.batch = true;
    return model;
  }

  Json Settings(const ModelFlags& model) const {
    Json settings = SettingsOf(model, flags_.grafts);
    const SamplingOptions& s = defaults_.sampling;
    settings["max_tokens"] = defaults_.max_tokens;
    settings["seed"] = flags_.seed;
    settings["temperature"] = fmt::format("{}", s.temperature);
    settings["top_k"] = s.top_k;
    settings["top_p"] = fmt::format("{}", s.top_p);
    settings["min_p"] = fmt::format("{}", s.min_p);
    settings["repeat_penalty"] = fmt::format("{}", s.repeat_penalty);
    settings["repeat_last_n"] = s.repeat_last_n;
    settings["presence_penalty"] = fmt::format("{}", s.presence_penalty);
    settings["frequency_penalty"] = fmt::format("{}", s.frequency_penalty);
    settings["min_tokens"] = defaults_.min_tokens;
    if (s.no_repeat_ngram > 0) settings["no_repeat_ngram"] = s.no_repeat_ngram;
    settings["logit_bias"] = flags_.logit_bias;
    settings["stop"] = defaults_.stop;
    settings["ignore_eos"] = defaults_.ignore_end;
    settings["loop_guard"] = defaults_.loop_guard;
    settings["verify"] = flags_.verify;
    const ConstraintFlags& c = constraint_;
    for (const std::string* text : {&c.json_schema, &c.json_schema_file, &c.regex, &c.grammar, &c.grammar_file}) {
      settings["constraint"].push_back(*text);
    }
    return settings;
  }

  void Begin(int64_t index, int64_t line, const Json& record, const std::string& error) {
    const Json id = IdOf(record, line);
    try {
      if (!error.empty()) Fail(ErrorCode::kData, error);
      Request request = RequestOf(record, defaults_, flags_.grafts, engine_.model(), adapters_);
      const int64_t tokens = std::ssize(request.prompt);
      const RequestId submitted = engine_.Submit(std::move(request));
      under_way_.emplace(submitted, Open{index, line, tokens, id});
    } catch (const Error& refused) {
      file_.Refuse(index, line, id, refused.what());
    }
  }

  void Step() {
    engine_.Step([&](const Event& event) {
      if (event.kind != Event::Kind::kFinished) return;
      const auto found = under_way_.find(event.request);
      const Open open = found->second;
      under_way_.erase(found);
      if (event.error) {
        try {
          std::rethrow_exception(event.error);
        } catch (const std::exception& failed) {
          file_.Refuse(open.index, open.line, open.id, failed.what());
        }
        return;
      }
      const Generation& g = *event.generation;
      Json answer = {{"id", open.id},
                     {"text", g.text},
                     {"ids", g.ids},
                     {"finish_reason", Name(g.finish_reason)},
                     {"usage", {{"prompt_tokens", open.prompt_tokens}, {"completion_tokens", g.ids.size()}}}};
      if (!g.logprobs.empty()) {
        answer["logprobs"] = LogprobsOf(g.logprobs);
        Json top = Json::array();
        for (const auto& place : g.top) top.push_back(LogprobsOf(place));
        answer["top_logprobs"] = std::move(top);
      }
      file_.Answer(open.index, answer);
      meter_.Add(std::ssize(g.ids));
    });
  }

  const GenerateFlags& flags_;
  const ConstraintFlags& constraint_;
  Engine engine_;
  Request defaults_;
  Adapters adapters_;
  RecordFile file_;
  Meter meter_;
  std::map<RequestId, Open> under_way_;
};

}  // namespace

void AddRecords(CLI::App& verb, RecordFlags& flags) {
  verb.add_option("--jsonl", flags.input, "Answer the records of this file, many at once; see docs/cli.md");
  verb.add_option("-o,--output", flags.output, "The file for their answers, in the records' order");
  verb.add_option("--shard", flags.shard, "i/n: only the i-th of n equal runs of records, counted from 0")
      ->capture_default_str();
}

void GenerateRecords(const RecordFlags& records, const GenerateFlags& generate, const ConstraintFlags& constraint,
                     const ModelFlags& model, const OutputFlags& output) {
  GenerateFlags flags = generate;
  flags.seed = std::max<int64_t>(generate.seed, 0);  // no seed given is one seed: a restart goes on as it began
  Run run(records, flags, constraint, model, output);
  run.All();
  NoteEnd(output, records, run.file(), run.meter());
}

void ScoreRecords(const RecordFlags& records, const std::vector<std::string>& grafts, const ModelFlags& model,
                  const OutputFlags& output, bool special) {
  Engine engine = LoadModel(model, output);
  const std::vector<AdapterUse> adapters = Adapters().Load(engine.model(), grafts);
  Json settings = SettingsOf(model, grafts);
  settings["special"] = special;
  RecordFile file(records, settings);
  Meter meter(output, file);
  file.ForEach([&](int64_t index, int64_t line, const Json& record, const std::string& error) {
    const Json id = IdOf(record, line);
    try {
      if (!error.empty()) Fail(ErrorCode::kData, error);
      if (!record.is_object()) Fail(ErrorCode::kData, "a record is ", record.type_name(), ", expected object");
      for (const auto& [field, value] : record.items()) {
        if (field != "id" && field != "custom_id" && field != "metadata" && field != "text" && field != "prompt") {
          Fail(ErrorCode::kData, "field \"", field.substr(0, 60), "\" is not known; a record to score has \"text\"");
        }
      }
      const auto text = record.contains("text") ? record.find("text") : record.find("prompt");
      if (text == record.end() || !text->is_string() || text->get_ref<const std::string&>().empty()) {
        Fail(ErrorCode::kData, "field \"text\" is missing, or no text");
      }
      const Score score =
          engine.ScoreIds(engine.model().Tokenize(text->get_ref<const std::string&>(), special), adapters);
      file.Answer(index, {{"id", id},
                          {"ids", score.ids},
                          {"logprobs", score.logprobs},
                          {"loss", score.loss},
                          {"perplexity", score.perplexity}});
      meter.Add(std::ssize(score.ids));
    } catch (const Error& refused) {
      file.Refuse(index, line, id, refused.what());
    }
    return true;
  });
  NoteEnd(output, records, file, meter);
}

}  // namespace cambium::cli
