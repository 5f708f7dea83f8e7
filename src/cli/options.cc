#include "cli/options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <limits>
#include <random>

#include "base/parallel.h"
#include "cambium/warning.h"
#include "decode/sampler.h"
#include "decode/verify.h"
#include "families/family.h"
#include "grafts/grafts.h"
#include "io/json.h"
#include "io/unicode.h"

namespace cambium::cli {

void AddOutput(CLI::App& verb, OutputFlags& flags) {
  verb.add_flag("--json", flags.json, "Print JSON on standard output");
  verb.add_flag("-q,--quiet", flags.quiet, "Print nothing on standard error but errors");
}

void AddModelName(CLI::App& verb, std::string& model) {
  verb.add_option("MODEL,-m,--model", model,
                  "A GGUF file, a Hugging Face directory, a cached name, or an alias (smollm2)")
      ->required();
}

void CheckThreads(int threads) {
  constexpr int kPerCore = 8, kAlways = 64;
  const int cores = DefaultThreads();
  CheckRange("--threads", threads, 0, 1024);
  if (threads <= cores) return;
  if (threads > std::max(kAlways, kPerCore * cores)) {
    Fail(ErrorCode::kUsage, "--threads: ", threads, " on ", cores, " cores; at most ",
         std::max(kAlways, kPerCore * cores), " are taken, and more than ", cores, " only wait for each other");
  }
  Warn("--threads: " + std::to_string(threads) + " on " + std::to_string(cores) + " cores is slower than " +
       std::to_string(cores));
}

void AddModel(CLI::App& verb, ModelFlags& flags) {
  AddModelName(verb, flags.model);
  verb.add_option("-t,--threads", flags.engine.threads, "Threads (0: every core that may be used)")
      ->envname("CAMBIUM_THREADS");
  verb.add_option("-c,--ctx-size", flags.engine.context, "Tokens of context (0: the model's own, at most 4096)");
  verb.add_flag("--exact", flags.engine.exact, "32-bit activations and KV cache instead of 8 and 16 bits");
  verb.add_option("--kv-type", flags.kv_type,
                  "Storage of the KV cache: f16, f32 or q8 (bytes with a scale for each 32)");
}

Engine LoadModel(const ModelFlags& flags, const OutputFlags& output, bool encoder) {
  CheckThreads(flags.engine.threads);
  CheckRange("--ctx-size", static_cast<double>(flags.engine.context), 0, std::numeric_limits<int32_t>::max());
  EngineOptions options = flags.engine;
  if (flags.kv_type == "f16") options.kv_type = KvType::kF16;
  if (flags.kv_type == "f32") options.kv_type = KvType::kF32;
  if (flags.kv_type == "q8" || flags.kv_type == "q8_0") options.kv_type = KvType::kQ8;  // llama.cpp's name too
  if (!flags.kv_type.empty() && options.kv_type == KvType::kDefault) {
    Fail(ErrorCode::kUsage, "--kv-type: ", flags.kv_type, " is none of f16, f32, q8");
  }
  const bool progress = !output.quiet && IsTerminal(stderr);
  if (progress) std::cerr << "loading " << flags.model << " ..." << std::flush;
  try {
    Engine engine = Engine::Load(flags.model, options);
    if (progress) std::cerr << "\r\033[K" << std::flush;
    const Family* const family = FindGgufFamily(engine.model().info().family);
    if (!encoder && family != nullptr && family->traits.encoder) {
      Fail(ErrorCode::kUsage, flags.model, ": a model with an encoder (", family->hf_type, ") runs in generate alone");
    }
    return engine;
  } catch (...) {
    if (progress) std::cerr << "\r\033[K" << std::flush;
    throw;
  }
}

void AddIgnoreFields(CLI::App& verb, std::vector<std::string>& fields) {
  verb.add_option("--ignore-fields", fields, "Fields of records and messages to pass over, such as tools,reward")
      ->delimiter(',');
}

void AddGrafts(CLI::App& verb, std::vector<std::string>& grafts) {
  verb.add_option("--graft", grafts, "An adapter to use, NAME or NAME=SCALE; repeatable")->allow_extra_args(false);
}

namespace {

std::string IsDash(const std::string& word) {
  if (word == "-") return "";
  return "\"" + word + "\" stands alone; a text follows -p, a file's name -f, and - is standard input";
}

}  // namespace

void AddInput(CLI::App& verb, InputFlags& flags, const std::string& names) {
  flags.text_option = verb.add_option(names, flags.text, "The text");
  verb.add_option("-f,--file", flags.file, "Read the text from a file");
  verb.add_option("DASH", flags.dash, "- reads the text from standard input")->check(IsDash);
  flags.ids_option = verb.add_option("--ids", flags.ids, "Token ids instead of a text: 1,2,3")->delimiter(',');
  verb.add_flag("--special", flags.special, "Parse special tokens such as <|im_end|> in the text");
}

Input ReadInput(const InputFlags& flags) {
  const bool has_text = flags.text_option->count() > 0, has_ids = flags.ids_option->count() > 0;
  const int sources = has_text + !flags.file.empty() + !flags.dash.empty() + has_ids;
  if (sources == 0) Fail(ErrorCode::kUsage, "no text: give -p TEXT, -f FILE, - for standard input, or --ids 1,2,3");
  if (sources > 1) Fail(ErrorCode::kUsage, "more than one of -p, -f, - and --ids is given");
  if (has_ids) return {"", flags.ids, flags.special};
  const std::string name = has_text ? "-p" : flags.dash.empty() ? flags.file : "standard input";
  std::string text = has_text ? flags.text : flags.dash.empty() ? ReadTextFile(flags.file) : ReadStdin();
  if (text.empty()) Fail(ErrorCode::kUsage, name, ": the text is empty");
  CheckUtf8(text, name);
  return {std::move(text), {}, flags.special};
}

std::vector<int32_t> Input::Ids(const Model& model, bool add_bos) const {
  return has_ids() ? ids : model.Tokenize(text, special, add_bos);
}

std::vector<AdapterUse> Adapters::Load(const Model& model, const std::vector<std::string>& grafts) {
  std::vector<AdapterUse> uses;
  for (const std::string& text : grafts) {
    const GraftSpec spec = ParseGraftSpec(text);
    auto found = loaded_.find(spec.path);
    if (found == loaded_.end()) found = loaded_.emplace(spec.path, Adapter::Load(model, spec.path)).first;
    uses.push_back({found->second, spec.scale});
  }
  return uses;
}

void AddGenerateOptions(CLI::App& verb, GenerateFlags& flags) {
  SamplingOptions& sampling = flags.request.sampling;
  AddGrafts(verb, flags.grafts);
  verb.add_option("-n,--predict,--n-predict,--max-tokens", flags.request.max_tokens,
                  "Tokens to generate at most (-1: until an end token or the end of the context)")
      ->capture_default_str();
  verb.add_option("-s,--seed", flags.seed, "Seed of the random numbers (-1: a new one each time)")
      ->capture_default_str();
  verb.add_option("--temp,--temperature", sampling.temperature, "Temperature (0: always the likeliest token)")
      ->capture_default_str();
  verb.add_option("--top-k", sampling.top_k, "Draw from the k likeliest (0: off)")->capture_default_str();
  verb.add_option("--top-p", sampling.top_p, "Draw from the likeliest that make up this probability (1: off)")
      ->capture_default_str();
  verb.add_option("--min-p", sampling.min_p, "Leave out what is less likely than this share of the likeliest (0: off)")
      ->capture_default_str();
  verb.add_option("--repeat-penalty", sampling.repeat_penalty, "Penalty on recent tokens (1: off)")
      ->capture_default_str();
  verb.add_option("--repeat-last-n", sampling.repeat_last_n, "How many recent tokens the penalty looks at")
      ->capture_default_str();
  verb.add_option("--presence-penalty", sampling.presence_penalty, "Taken from tokens that the answer holds (0: off)")
      ->capture_default_str();
  verb.add_option("--frequency-penalty", sampling.frequency_penalty,
                  "The same for each time that it holds them (0: off)")
      ->capture_default_str();
  verb.add_option("-l,--logit-bias", flags.logit_bias, "ID+BIAS or ID-BIAS: added to a token's logit; repeatable")
      ->allow_extra_args(false);
  verb.add_option("--stop", flags.request.stop, "End the text before this string; repeatable")->allow_extra_args(false);
  verb.add_option("--no-repeat-ngram", sampling.no_repeat_ngram,
                  "No run of so many tokens comes twice, in the prompt and the answer (0: off)")
      ->capture_default_str();
  verb.add_option("--min-tokens", flags.request.min_tokens,
                  "Tokens before which no end token and no stop string ends it")
      ->capture_default_str();
  verb.add_flag("--ignore-eos", flags.request.ignore_end, "Go on past end-of-generation tokens");
  verb.add_flag("--loop-guard,!--no-loop-guard", flags.request.loop_guard,
                "End an answer that repeats itself for ever (on; the end is called repetition)");
  verb.add_option(
          "--draft", flags.request.drafting.drafters,
          "Who drafts ahead: auto, none, grammar, ngram, recycle, corpus:index=FILE, model:path=MODEL, exit:layer=K, "
          "medusa, mtp; repeatable. Drafts never change the text")
      ->allow_extra_args(false);
  verb.add_option("--draft-rows", flags.request.drafting.max_rows, "Rows that a verifying pass may have at most")
      ->capture_default_str();
  verb.add_option(
          "--verify", flags.verify,
          "How drafts are judged: match, rejection (keeps the distribution, not the text), typical (keeps neither)")
      ->capture_default_str();
}

void AddBeams(CLI::App& verb, BeamFlags& flags) {
  flags.option = verb.add_option("--beams", flags.beams.count,
                                 "Search for the likeliest answer with so many hypotheses, instead of drawing one");
  verb.add_option("--length-penalty", flags.beams.length_penalty,
                  "With --beams: a hypothesis of n tokens scores its log-probability / n ^ this")
      ->capture_default_str();
  verb.add_option("--early-stopping", flags.early_stopping,
                  "With --beams: true (when so many have ended), false (when none is likely to become better) or never "
                  "(when none can)")
      ->capture_default_str();
}

BeamOptions CheckedBeams(const CLI::App& verb, const BeamFlags& flags) {
  BeamOptions beams = flags.beams;
  for (const char* name : {"--length-penalty", "--early-stopping"}) {
    if (verb.count(name) > 0 && flags.option->count() == 0) Fail(ErrorCode::kUsage, name, " needs --beams");
  }
  CheckRange("--beams", static_cast<double>(beams.count), 1, 256);
  CheckRange("--length-penalty", static_cast<double>(beams.length_penalty), -100, 100);
  if (flags.early_stopping == "true") {
    beams.stop = BeamOptions::Stop::kEarly;
  } else if (flags.early_stopping == "never") {
    beams.stop = BeamOptions::Stop::kNever;
  } else if (flags.early_stopping != "false") {
    Fail(ErrorCode::kUsage, "--early-stopping: ", flags.early_stopping, " is none of true, false, never");
  }
  return beams;
}

namespace {

// "15043+1.5", "15043-1": the sign is part of the bias.
std::pair<int32_t, float> ParseLogitBias(const std::string& text) {
  const size_t sign = text.find_first_of("+-", 1);
  int32_t id = -1;
  char* end = nullptr;
  const char* const last = text.data() + std::min(sign, text.size());
  const bool good_id = sign != std::string::npos && std::from_chars(text.data(), last, id).ptr == last && id >= 0;
  const float bias = good_id ? std::strtof(text.c_str() + sign, &end) : 0.0f;
  if (!good_id || *end != '\0' || end == text.c_str() + sign || std::isnan(bias)) {
    Fail(ErrorCode::kUsage, "--logit-bias: ", text, " is not ID+BIAS or ID-BIAS");
  }
  return {id, bias};
}

}  // namespace

Request CheckedRequest(const GenerateFlags& flags) {
  Request options = flags.request;
  CheckRange("-n", static_cast<double>(options.max_tokens), -1, std::numeric_limits<int32_t>::max());
  CheckRange("--draft-rows", static_cast<double>(options.drafting.max_rows), 1, 1024);
  CheckRange("--seed", static_cast<double>(flags.seed), -1, static_cast<double>(std::numeric_limits<int64_t>::max()));
  for (const std::string& stop : options.stop) {
    if (stop.empty()) Fail(ErrorCode::kUsage, "--stop: the string is empty");
  }
  for (const std::string& bias : flags.logit_bias) options.sampling.logit_bias.insert(ParseLogitBias(bias));
  options.sampling.seed = flags.seed >= 0 ? static_cast<uint64_t>(flags.seed) : std::random_device{}();
  const VerifyRule rule = ParseVerifyRule(flags.verify);
  using Verify = DraftOptions::Verify;
  options.drafting.verify = rule.kind == VerifyRule::kMatch       ? Verify::kMatch
                            : rule.kind == VerifyRule::kRejection ? Verify::kRejection
                                                                  : Verify::kTypical;
  options.drafting.epsilon = rule.epsilon;
  options.drafting.delta = rule.delta;
  const Sampler check(options.sampling);  // refuses bad values now, not after the model is loaded
  return options;
}

void ApplyConfigFile(CLI::App& verb, const std::string& file) {
  if (file.empty()) return;
  std::vector<CLI::ConfigItem> items;
  try {
    items = CLI::ConfigTOML().from_file(file);
  } catch (const CLI::Error& error) {
    Fail(ErrorCode::kUsage, file, ": ", error.what());
  }
  for (const CLI::ConfigItem& item : items) {
    if (item.name == "++" || item.name == "--") continue;  // CLI11's marks of sections
    CLI::Option* option = verb.get_option_no_throw("--" + item.name);
    if (option == nullptr) option = verb.get_option_no_throw(item.name);
    if (option == nullptr) Fail(ErrorCode::kUsage, file, ": unknown key \"", item.name, "\"");
    if (option->count() > 0) continue;
    try {
      for (const std::string& input : item.inputs) {
        if (option->get_type_size() > 0 || input != "false") option->add_result(input);
      }
      if (option->count() > 0) option->run_callback();
    } catch (const CLI::Error& error) {
      Fail(ErrorCode::kUsage, file, ": ", item.name, ": ", error.what());
    }
  }
}

void CheckUtf8(std::string_view text, std::string_view name) {
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    const CodePoint c = DecodeUtf8(at, end);
    if (!c.valid) {
      Fail(ErrorCode::kUsage, name, ": not UTF-8: byte ", fmt::format("0x{:02x}", c.value), " at offset ",
           at - text.data());
    }
    at += c.length;
  }
}

void AddYes(CLI::App& verb, bool& yes) { verb.add_flag("-y,--yes", yes, "Write over what is there without asking"); }

void RequireOverwrite(const std::string& path, bool yes) {
  std::error_code unknown;
  const bool there = std::filesystem::is_directory(path, unknown) ? !std::filesystem::is_empty(path, unknown)
                                                                  : std::filesystem::exists(path, unknown);
  if (!there || yes) return;
  if (IsTerminal(stdin) && IsTerminal(stderr)) {
    std::cerr << path << " is there already; write over it? [y/N] " << std::flush;
    std::string answer;
    std::getline(std::cin, answer);
    if (answer == "y" || answer == "Y" || answer == "yes") return;
  }
  Fail(ErrorCode::kUsage, path, ": is there already; --yes writes over it");
}

std::string ReadStdin() {
  std::string text;
  char buffer[65536];
  for (size_t count; (count = std::fread(buffer, 1, sizeof buffer, stdin)) > 0;) text.append(buffer, count);
  if (std::ferror(stdin)) Fail(ErrorCode::kRuntime, "standard input: ", std::strerror(errno));
  return text;
}

void Write(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    Fail(ErrorCode::kResource, "standard output: ", std::strerror(errno));
  }
}

void WriteJson(const nlohmann::ordered_json& value) {
  Write(value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

std::string Quoted(std::string_view bytes) {
  return nlohmann::json(bytes).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void Next(const OutputFlags& flags, std::string_view command) { Note(flags, fmt::format("next: {}", command)); }

bool Chats(const Model& model) {
  try {
    return model.TemplateReads("messages");
  } catch (const Error&) {
    return false;
  }
}

std::string Word(const std::string& text) {
  constexpr std::string_view kPlain = "-_./=:,+@%";
  const auto plain = [&](unsigned char c) {
    return std::isalnum(c) || kPlain.find(static_cast<char>(c)) != kPlain.npos;
  };
  if (!text.empty() && std::ranges::all_of(text, plain)) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

void Note(const OutputFlags& flags, std::string_view line) {
  if (!flags.quiet) std::cerr << line << '\n';
}

void NoteEnd(const OutputFlags& flags, const Generation& generation, int64_t context) {
  if (flags.quiet || !IsTerminal(stderr)) return;
  const Timings& t = generation.timings;
  const int64_t tokens = std::ssize(generation.ids);
  std::string line = fmt::format("{} tokens", tokens);
  if (t.decode_ms > 0)
    line += fmt::format(", {:.0f} a second", 1000 * static_cast<double>(t.decode_tokens) / t.decode_ms);
  line += fmt::format("; prompt {} in {:.2f} s", t.prompt_tokens + t.cached_tokens, t.prompt_ms / 1000);
  if (generation.draft.num_drafts > 0) {
    line += fmt::format("; {:.1f} tokens a pass by drafts",
                        static_cast<double>(t.decode_tokens) / static_cast<double>(generation.draft.passes));
  }
  const bool full = t.prompt_tokens + t.cached_tokens + tokens >= context;
  if (generation.finish_reason == FinishReason::kRepetition) line += "; it repeated itself (--no-loop-guard goes on)";
  if (generation.finish_reason == FinishReason::kCancelled) line += "; stopped";
  if (generation.finish_reason == FinishReason::kLength) {
    line += full ? fmt::format("; cut off: the context of {} tokens is full (-c)", context) : "; cut off (-n)";
  }
  Note(flags, "[" + line + "]");
}

nlohmann::ordered_json ToJson(const Generation& generation) {
  const Timings& timings = generation.timings;
  const DraftReport& draft = generation.draft;
  nlohmann::ordered_json json = {{"text", generation.text},
                                 {"ids", generation.ids},
                                 {"finish_reason", Name(generation.finish_reason)},
                                 {"timings",
                                  {{"load_ms", timings.load_ms},
                                   {"prompt_tokens", timings.prompt_tokens},
                                   {"cached_tokens", timings.cached_tokens},
                                   {"prompt_ms", timings.prompt_ms},
                                   {"decode_tokens", timings.decode_tokens},
                                   {"decode_ms", timings.decode_ms}}},
                                 {"spec_decode",
                                  {{"num_drafts", draft.num_drafts},
                                   {"num_draft_tokens", draft.num_draft_tokens},
                                   {"num_accepted_tokens", draft.num_accepted_tokens},
                                   {"num_accepted_tokens_per_pos", draft.num_accepted_tokens_per_pos},
                                   {"passes", draft.passes},
                                   {"draft_ms", draft.draft_ms},
                                   {"verify_ms", draft.verify_ms},
                                   {"plain_ms", draft.plain_ms},
                                   {"drafters", draft.drafters}}}};
  if (generation.beams.empty()) return json;
  json["score"] = generation.beams.front().score;
  for (const Hypothesis& beam : generation.beams) {
    json["beams"].push_back({{"text", beam.text},
                             {"ids", beam.ids},
                             {"score", beam.score},
                             {"finish_reason", beam.ended ? "stop" : "length"}});
  }
  return json;
}

bool IsTerminal(FILE* stream) { return isatty(fileno(stream)) == 1; }

bool UseColor(FILE* stream) {
  const char* const no_color = std::getenv("NO_COLOR");
  const char* const terminal = std::getenv("TERM");
  const bool plain =
      (no_color != nullptr && *no_color != '\0') || (terminal != nullptr && std::string_view(terminal) == "dumb");
  return !plain && IsTerminal(stream);
}

}  // namespace cambium::cli
