#include "server/ask.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <ctime>

#include "drafters/drafters.h"
#include "server/ids.h"

namespace cambium::server {
namespace {

constexpr int64_t kMostChoices = 128;
constexpr size_t kMostStops = 64, kLongestStop = 1024, kMostDrafters = 16;

// Fields of other servers that would change an answer, with the value that does not.
const std::pair<const char*, Json> kUnsupported[] = {
    {"suffix", ""},
    {"mirostat", 0},
    {"typical_p", 1.0},
    {"dry_multiplier", 0.0},
    {"xtc_probability", 0.0},
    {"dynatemp_range", 0.0},
    {"tfs_z", 1.0},
    {"top_n_sigma", -1.0},
    {"use_beam_search", false},
    {"length_penalty", 1.0},
    {"bad_words", nullptr},
    {"stop_token_ids", nullptr},
    {"allowed_token_ids", nullptr},
    {"include_stop_str_in_output", false},
    {"skip_special_tokens", true},
    {"return_hidden_states", false},
    {"no_stop_trim", false},
    {"guided_json", nullptr},
    {"guided_regex", nullptr},
    {"guided_choice", nullptr},
    {"guided_grammar", nullptr},
    {"functions", nullptr},
    {"function_call", "none"},
    {"audio", nullptr},
    {"chat_template", nullptr},
    {"documents", nullptr},
    {"add_special_tokens", false},
    {"samplers", nullptr},
    {"logits_processors", nullptr},
    {"t_max_predict_ms", 0},
    {"post_sampling_probs", false},
    {"n_probs", 0},
    {"n_indent", 0},
    {"stop_regex", nullptr},
    {"repetition_detection", nullptr},
    {"return_token_ids", false},
    {"return_tokens_as_token_ids", false},
    {"include_reasoning", true},
    {"parse_tool_calls", true},
    {"web_search_options", nullptr},
    {"prompt_logprobs", nullptr},
    {"thinking_budget_tokens", nullptr},
};

void RefuseUnsupported(const Fields& fields) {
  for (const auto& [name, harmless] : kUnsupported) {
    const Json* const value = fields.Find(name);
    if (value == nullptr || *value == harmless || (value->is_structured() && value->empty())) continue;
    Refuse(fields.Name(name), fields.Name(name) + " is not supported");
  }
  const Json* const modalities = fields.Find("modalities");
  if (modalities != nullptr && *modalities != Json{"text"}) Refuse("modalities", *modalities, "[\"text\"]");
}

void ReadLogitBias(const Fields& fields, const Service& service, SamplingOptions& sampling) {
  const Json* const biases = fields.Object("logit_bias");
  if (biases == nullptr) return;
  const int64_t vocab = service.model().info().vocab;
  std::string bad;
  size_t wrong = 0;
  for (const auto& [key, bias] : biases->items()) {
    int32_t id = -1;
    const auto read = std::from_chars(key.data(), key.data() + key.size(), id);
    const bool good = read.ec == std::errc() && read.ptr == key.data() + key.size() && id >= 0 && id < vocab;
    if (!good) {
      if (++wrong <= 20) bad += (bad.empty() ? "" : ", ") + key.substr(0, 24);
      continue;
    }
    if (!bias.is_number() || !(std::abs(bias.get<double>()) <= 100)) {
      Refuse("logit_bias", bias, "a number from -100 to 100 (logit_bias of " + key + ")");
    }
    const double value = bias.get<double>();
    sampling.logit_bias[id] = value <= -100 ? -std::numeric_limits<float>::infinity() : static_cast<float>(value);
  }
  if (wrong == 0) return;
  if (wrong > 20) bad += fmt::format(" and {} more", wrong - 20);
  Refuse("logit_bias",
         fmt::format("logit_bias: {} {} no id of the vocabulary of {} tokens", bad, wrong == 1 ? "is" : "are", vocab));
}

void ReadSampling(const Fields& fields, const Service& service, SamplingOptions& sampling) {
  const auto set = [&](const char* name, float& value, double low, double high) {
    if (const auto given = fields.Number(name, low, high)) value = static_cast<float>(*given);
  };
  set("temperature", sampling.temperature, 0, 100);
  set("top_p", sampling.top_p, 0, 1);
  sampling.top_p = std::max(sampling.top_p, 1e-9f);
  set("min_p", sampling.min_p, 0, 1);
  if (const auto k = fields.Whole("top_k", -1, kMostTokens))
    sampling.top_k = static_cast<int>(std::max<int64_t>(*k, 0));
  if (fields.Has("repeat_penalty") && fields.Has("repetition_penalty")) {
    Refuse("repetition_penalty", "both repeat_penalty and repetition_penalty are given");
  }
  set("repeat_penalty", sampling.repeat_penalty, 1e-3, 1e3);
  if (fields.Has("repetition_penalty")) {  // vLLM's: of the whole text
    set("repetition_penalty", sampling.repeat_penalty, 1e-3, 1e3);
    sampling.repeat_last_n = -1;
  }
  if (const auto n = fields.Whole("repeat_last_n", -1, kMostTokens)) sampling.repeat_last_n = static_cast<int>(*n);
  set("presence_penalty", sampling.presence_penalty, -2, 2);
  set("frequency_penalty", sampling.frequency_penalty, -2, 2);
  const auto seed = fields.Whole("seed", std::numeric_limits<int64_t>::min());
  sampling.seed = seed && *seed != -1 ? static_cast<uint64_t>(*seed) : RandomBits() >> 1;
  ReadLogitBias(fields, service, sampling);
}

void ReadStop(const Fields& fields, Request& request) {
  request.stop = fields.Texts("stop").value_or(std::vector<std::string>());
  if (request.stop.size() > kMostStops) {
    Refuse("stop", fmt::format("stop has {} strings, at most {} may be given", request.stop.size(), kMostStops));
  }
  for (const std::string& stop : request.stop) {
    if (stop.empty()) Refuse("stop", "stop holds an empty string");
    if (stop.size() > kLongestStop) {
      Refuse("stop",
             fmt::format("stop holds a string of {} bytes, at most {} may be given", stop.size(), kLongestStop));
    }
  }
}

// A drafter that reads a file is the server's to name.
void ReadDraft(const Fields& fields, const Service& service, Request& request) {
  const std::vector<std::string>& own = service.options.drafters;
  const auto named = fields.Texts("draft");
  request.drafting.drafters = named.value_or(own);
  if (!named) return;
  if (named->empty()) Refuse("draft", "draft is empty, expected \"auto\", \"none\", or drafters");
  if (named->size() > kMostDrafters) {
    Refuse("draft", fmt::format("draft names {} drafters, at most {} may be named", named->size(), kMostDrafters));
  }
  try {
    CheckDrafters(*named);
  } catch (const Error& error) {
    Refuse("draft", std::string(error.what()).substr(std::string_view("--").size()));
  }
  for (const std::string& spec : *named) {
    const bool reads =
        spec.find('/') != spec.npos || spec.find("path=") != spec.npos || spec.find("index=") != spec.npos;
    if (reads && std::ranges::find(own, spec) == own.end()) {
      Refuse("draft", "draft names a file; a file may be named by the server's --draft alone");
    }
  }
}

void ReadStream(const Fields& fields, Ask& ask) {
  ask.stream = fields.Bool("stream").value_or(false);
  if (const Json* const options = fields.Object("stream_options")) {
    if (!ask.stream) Refuse("stream_options", "stream_options is given without stream");
    const Fields inner(*options, "stream_options.");
    ask.include_usage = inner.Bool("include_usage").value_or(false);
    ask.usage_everywhere = ask.include_usage && inner.Bool("continuous_usage_stats").value_or(false);
  }
  ask.progress = fields.Bool("return_progress").value_or(false) && ask.stream;
  ask.timings = fields.Bool("timings_per_token").value_or(false);
  if (const auto seconds = fields.Number("sse_ping_interval", -1, 86400)) ask.ping_seconds = *seconds;
  if (const Json* const own = fields.Object("cambium"))
    ask.trace = Fields(*own, "cambium.").Bool("trace").value_or(false);
}

}  // namespace

int64_t ReadMaxTokens(const Fields& fields, std::initializer_list<const char*> names, int64_t least) {
  int64_t most = -1;
  for (const char* const name : names) {
    const bool own = name == std::string_view("n_predict");  // llama.cpp's, with -1 for no limit
    const auto given = fields.Whole(name, own ? -1 : least, kMostTokens);
    if (!given || *given == -1) continue;
    if (most != -1 && most != *given)
      Refuse(name, fmt::format("{} is {}, but another field says {}", name, *given, most));
    most = *given;
  }
  return most;
}

std::vector<AdapterUse> ReadModel(const Fields& fields, const Service& service, std::string& name) {
  std::vector<AdapterUse> uses;
  const auto add = [&](const std::string& graft, const char* field, std::optional<double> scale) {
    const GraftShelf::Entry entry = service.grafts.Find(graft);
    if (entry == nullptr) {
      const std::string shown = graft.size() > 80 ? graft.substr(0, 77) + "..." : graft;
      throw ApiError{404, fmt::format("the model `{}` does not exist here", shown), field, "model_not_found"};
    }
    uses.push_back({*entry->adapter, scale ? static_cast<float>(*scale) : entry->scale});
  };
  name = fields.Text("model").value_or(service.options.name);
  if (name != service.options.name) add(name, "model", std::nullopt);
  if (const Json* const grafts = fields.List("grafts")) {
    if (grafts->size() > 16) Refuse("grafts", "grafts has more than 16 entries");
    for (size_t i = 0; i < grafts->size(); ++i) {
      const std::string where = fields.Name(fmt::format("grafts[{}]", i));
      if ((*grafts)[i].is_string()) {
        add((*grafts)[i].get<std::string>(), "grafts", std::nullopt);
        continue;
      }
      static constexpr const char* kExpected = "a name or {\"name\", \"scale\"}";
      if (!(*grafts)[i].is_object()) Refuse(where, (*grafts)[i], kExpected);
      const Fields graft((*grafts)[i], where + ".");
      const auto called = graft.Text("name");
      if (!called) Refuse(where, (*grafts)[i], kExpected);
      add(*called, "grafts", graft.Number("scale", -1e6, 1e6));
    }
  }
  if (const Json* const loras = fields.List("lora")) {  // llama.cpp's: by number
    if (loras->size() > 16) Refuse("lora", "lora has more than 16 entries");
    const std::vector<GraftShelf::Entry> shelf = service.grafts.List();
    if (shelf.empty() && !loras->empty()) Refuse("lora", "lora names a graft, but none is served");
    for (size_t i = 0; i < loras->size(); ++i) {
      const Fields lora((*loras)[i], fmt::format("lora[{}].", i));
      const auto number = lora.Whole("id", 0, std::ssize(shelf) - 1);
      if (!number) Refuse(lora.Name("id"), "lora needs an id");
      uses.push_back({*shelf[static_cast<size_t>(*number)]->adapter,
                      static_cast<float>(lora.Number("scale", -1e6, 1e6).value_or(1))});
    }
  }
  std::erase_if(uses, [](const AdapterUse& use) { return use.scale == 0; });
  return uses;
}

Request ReadAsk(const Fields& fields, const Service& service, Ask& ask) {
  RefuseUnsupported(fields);
  Request request;
  request.adapters = ReadModel(fields, service, ask.model);
  ReadSampling(fields, service, request.sampling);
  ReadStop(fields, request);
  ReadDraft(fields, service, request);
  ReadStream(fields, ask);
  request.trace = ask.trace || ask.timings;
  request.progress = ask.progress || ask.timings;
  request.ignore_end = fields.Bool("ignore_eos").value_or(false);
  request.loop_guard = fields.Bool("loop_guard").value_or(false);
  request.min_tokens = fields.Whole("min_tokens", 0, kMostTokens).value_or(0);
  ask.choices = fields.Whole("n", 1, kMostChoices).value_or(1);
  if (fields.Whole("best_of", 1, kMostChoices).value_or(ask.choices) != ask.choices) {
    Refuse("best_of", "best_of is not supported unless it equals n");
  }
  if (const auto salt = fields.Text("cache_salt")) {
    if (salt->empty()) Refuse("cache_salt", "cache_salt is empty");
    request.cache_salt = *salt;
  }
  ask.created = std::time(nullptr);
  ask.arrived = std::chrono::steady_clock::now();
  return request;
}

namespace {

void CheckFits(const Ask& ask, size_t index, int64_t more, const Service& service) {
  const int64_t context = service.context, prompt = std::ssize(ask.prompts[index]);
  if (prompt + more <= context) return;
  throw ApiError{400,
                 fmt::format("{} has {} tokens, the context holds {}{}",
                             ask.prompts.size() > 1 ? fmt::format("{}[{}]", ask.prompt_field, index) : "the prompt",
                             prompt, context, more > 0 ? ", one of them for the answer" : ""),
                 ask.prompt_field,
                 "context_length_exceeded",
                 {{"n_prompt_tokens", prompt}, {"n_ctx", context}}};
}

// What the engine would refuse without the name that a request has for it.
void CheckEnd(const Request& pattern) {
  if (pattern.max_tokens >= 0 && pattern.min_tokens > pattern.max_tokens) {
    Refuse("min_tokens", fmt::format("min_tokens is {}, above max_tokens, {}", pattern.min_tokens, pattern.max_tokens));
  }
  const auto grammar = [](const std::string& spec) { return spec.substr(0, spec.find(':')) == "grammar"; };
  if (!pattern.constraint && std::ranges::any_of(pattern.drafting.drafters, grammar)) {
    Refuse("draft", "draft names grammar, but the request has no schema or grammar to draft from");
  }
  if (!pattern.constraint) return;
  const char* const against = pattern.ignore_end ? "ignore_eos" : pattern.min_tokens > 0 ? "min_tokens" : nullptr;
  if (against != nullptr) {
    Refuse(against,
           std::string(against) + " is given with a schema or a grammar, under which the answer ends where it must");
  }
}

}  // namespace

void TruncatePrompts(const Fields& fields, const Request& pattern, const Service& service, Ask& ask) {
  const auto given = fields.Whole("truncate_prompt_tokens", -1, kMostTokens);
  const std::string side = fields.Text("truncation_side").value_or("left");
  if (side != "left" && side != "right") Refuse("truncation_side", side, "\"left\" or \"right\"");
  if (!given) return;
  if (*given == 0) Refuse("truncate_prompt_tokens", "truncate_prompt_tokens is 0, which leaves no prompt");
  const int64_t context = service.context;
  const int64_t answer = pattern.max_tokens < 0 ? 1 : std::min(pattern.max_tokens, context - 1);
  const size_t most = static_cast<size_t>(*given > 0 ? *given : context - answer);
  for (std::vector<int32_t>& prompt : ask.prompts) {
    if (prompt.size() <= most) continue;
    if (side == "left") prompt.erase(prompt.begin(), prompt.end() - static_cast<std::ptrdiff_t>(most));
    prompt.resize(most);
  }
}

std::vector<Request> RequestsOf(const Ask& ask, const Request& pattern, const Service& service) {
  CheckEnd(pattern);
  if (ask.timings && ask.answers() > 1 && !ask.stream) {
    Refuse("timings_per_token", "timings_per_token of several answers needs stream");
  }
  std::vector<Request> requests;
  for (size_t i = 0; i < ask.answers(); ++i) {
    const std::vector<int32_t>& prompt = ask.prompts[ask.PromptOf(i)];
    if (i % static_cast<size_t>(ask.choices) == 0) CheckFits(ask, ask.PromptOf(i), pattern.max_tokens != 0, service);
    Request& request = requests.emplace_back(pattern);
    request.prompt = prompt;
    request.sampling.seed += i % static_cast<size_t>(ask.choices);  // each choice its own noise
  }
  return requests;
}

}  // namespace cambium::server
