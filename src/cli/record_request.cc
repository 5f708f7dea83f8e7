#include "cli/record_request.h"

#include <charconv>
#include <functional>
#include <limits>
#include <map>

#include "engine/constraint_fields.h"
#include "io/json.h"
#include "io/sha256.h"

namespace cambium::cli {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void Wrong(const std::string& field, const Json& value, const char* expected) {
  Fail(ErrorCode::kData, "field \"", field, "\" is ", ShownJson(value), ", expected ", expected);
}

double Number(const std::string& field, const Json& value, double low, double high, const char* expected) {
  if (!value.is_number() || !(value.get<double>() >= low && value.get<double>() <= high)) Wrong(field, value, expected);
  return value.get<double>();
}

int64_t Whole(const std::string& field, const Json& value, int64_t low, int64_t high, const char* expected) {
  const bool whole = value.is_number_integer() &&
                     (!value.is_number_unsigned() || value.get<uint64_t>() <= static_cast<uint64_t>(high));
  if (!whole || value.get<int64_t>() < low || value.get<int64_t>() > high) Wrong(field, value, expected);
  return value.get<int64_t>();
}

std::vector<std::string> Texts(const std::string& field, const Json& value, const char* expected) {
  if (value.is_string()) return {value.get<std::string>()};
  if (!value.is_array()) Wrong(field, value, expected);
  std::vector<std::string> texts;
  for (const Json& item : value) {
    if (!item.is_string()) Wrong(field, value, expected);
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

std::map<int32_t, float> Biases(const std::string& field, const Json& value) {
  constexpr const char* kExpected = "an object of token ids and numbers from -100 to 100";
  if (!value.is_object()) Wrong(field, value, kExpected);
  std::map<int32_t, float> biases;
  for (const auto& [key, bias] : value.items()) {
    int32_t id = -1;
    const auto read = std::from_chars(key.data(), key.data() + key.size(), id);
    if (read.ec != std::errc() || read.ptr != key.data() + key.size() || id < 0) Wrong(field, value, kExpected);
    biases[id] = static_cast<float>(Number(field, bias, -100, 100, kExpected));
  }
  return biases;
}

// "NAME=SCALE" texts, or objects {"name", "scale"}.
std::vector<std::string> GraftNames(const Json& value) {
  constexpr const char* kExpected = "a list of names or of {\"name\", \"scale\"}";
  if (!value.is_array()) Wrong("grafts", value, kExpected);
  std::vector<std::string> names;
  for (const Json& item : value) {
    if (item.is_string()) {
      names.push_back(item.get<std::string>());
      continue;
    }
    if (!item.is_object() || !item.contains("name") || !item["name"].is_string()) Wrong("grafts", value, kExpected);
    for (const auto& [key, unused] : item.items()) {
      if (key != "name" && key != "scale") Wrong("grafts", value, kExpected);
    }
    const double scale = Number("scale", item.value("scale", Json(1.0)), -1e6, 1e6, "a number");
    names.push_back(item["name"].get<std::string>() + "=" + std::to_string(scale));
  }
  return names;
}

uint64_t SeedOf(const Json& record, uint64_t seed) {
  const std::string text = record.dump(-1, ' ', false, Json::error_handler_t::replace);
  Sha256 hash;
  hash.Update({reinterpret_cast<const uint8_t*>(&seed), sizeof(seed)});
  hash.Update({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  uint64_t mixed = 0;
  const std::string digest = hash.HexDigest();
  std::from_chars(digest.data(), digest.data() + 16, mixed, 16);
  return mixed >> 1;
}

using Setter = std::function<void(Request&, const std::string& field, const Json& value)>;

const std::map<std::string, Setter, std::less<>>& Setters() {
  static const auto tokens = [](Request& r, const std::string& f, const Json& v) {
    r.max_tokens = Whole(f, v, 1, std::numeric_limits<int32_t>::max(), "a whole number from 1");
  };
  static const auto nothing = [](Request&, const std::string&, const Json&) {};
  static const std::map<std::string, Setter, std::less<>> kSetters = {
      {"max_tokens", tokens},
      {"max_completion_tokens", tokens},
      {"temperature",
       [](Request& r, const std::string& f, const Json& v) {
         r.sampling.temperature = static_cast<float>(Number(f, v, 0, 100, "a number from 0 to 100"));
       }},
      {"top_p",
       [](Request& r, const std::string& f, const Json& v) {
         r.sampling.top_p = static_cast<float>(Number(f, v, 1e-9, 1, "a number above 0, at most 1"));
       }},
      {"min_p",
       [](Request& r, const std::string& f, const Json& v) {
         r.sampling.min_p = static_cast<float>(Number(f, v, 0, 1, "a number from 0 to 1"));
       }},
      {"top_k",
       [](Request& r, const std::string& f, const Json& v) {
         r.sampling.top_k = static_cast<int>(Whole(f, v, 0, 1 << 30, "a whole number from 0"));
       }},
      {"repeat_penalty",
       [](Request& r, const std::string& f, const Json& v) {
         r.sampling.repeat_penalty = static_cast<float>(Number(f, v, 1e-6, 1e6, "a number above 0"));
       }},
      {"repeat_last_n",
       [](Request& r, const std::string& f, const Json& v) {
         r.sampling.repeat_last_n = static_cast<int>(Whole(f, v, -1, 1 << 30, "a whole number from -1"));
       }},
      {"no_repeat_ngram",
       [](Request& r, const std::string& f, const Json& v) {
         r.sampling.no_repeat_ngram = static_cast<int>(Whole(f, v, 0, 1 << 30, "a whole number from 0"));
       }},
      {"seed",
       [](Request& r, const std::string& f, const Json& v) {
         r.sampling.seed =
             static_cast<uint64_t>(Whole(f, v, 0, std::numeric_limits<int64_t>::max(), "a whole number from 0"));
       }},
      {"stop",
       [](Request& r, const std::string& f, const Json& v) { r.stop = Texts(f, v, "a string or a list of them"); }},
      {"ignore_eos",
       [](Request& r, const std::string& f, const Json& v) {
         if (!v.is_boolean()) Wrong(f, v, "true or false");
         r.ignore_end = v.get<bool>();
       }},
      {"loop_guard",
       [](Request& r, const std::string& f, const Json& v) {
         if (!v.is_boolean()) Wrong(f, v, "true or false");
         r.loop_guard = v.get<bool>();
       }},
      {"logit_bias", [](Request& r, const std::string& f, const Json& v) { r.sampling.logit_bias = Biases(f, v); }},
      {"logprobs",
       [](Request& r, const std::string& f, const Json& v) {
         if (v.is_boolean()) {
           r.top_logprobs = v.get<bool>() ? std::max(r.top_logprobs, 0) : -1;
         } else {
           r.top_logprobs = static_cast<int>(Whole(f, v, 0, 1024, "true, false, or a whole number from 0 to 1024"));
         }
       }},
      {"top_logprobs",
       [](Request& r, const std::string& f, const Json& v) {
         r.top_logprobs = static_cast<int>(Whole(f, v, 0, 1024, "a whole number from 0 to 1024"));
       }},
      {"draft", [](Request& r, const std::string& f,
                   const Json& v) { r.drafting.drafters = Texts(f, v, "a drafter's name or a list of them"); }},
      {"presence_penalty",
       [](Request& r, const std::string& f, const Json& v) {
         r.sampling.presence_penalty = static_cast<float>(Number(f, v, -2, 2, "a number from -2 to 2"));
       }},
      {"frequency_penalty",
       [](Request& r, const std::string& f, const Json& v) {
         r.sampling.frequency_penalty = static_cast<float>(Number(f, v, -2, 2, "a number from -2 to 2"));
       }},
      {"min_tokens",
       [](Request& r, const std::string& f, const Json& v) {
         r.min_tokens = Whole(f, v, 0, std::numeric_limits<int64_t>::max(), "a whole number from 0");
       }},
      {"n", [](Request&, const std::string& f, const Json& v) { Whole(f, v, 1, 1, "1, as it is not supported"); }},
      // Read elsewhere, or without effect.
      {"id", nothing},
      {"custom_id", nothing},
      {"metadata", nothing},
      {"user", nothing},
      {"prompt", nothing},
      {"messages", nothing},
      {"tools", nothing},
      {"chat_template_kwargs", nothing},
      {"response_format", nothing},
      {"structured_outputs", nothing},
      {"json_schema", nothing},
      {"regex", nothing},
      {"choice", nothing},
      {"grammar", nothing},
      {"grafts", nothing},
  };
  return kSetters;
}

std::vector<int32_t> PromptOf(const Json& record, const Model& model) {
  const auto prompt = record.find("prompt"), messages = record.find("messages");
  if ((prompt == record.end()) == (messages == record.end())) {
    Fail(ErrorCode::kData, "a record has either \"prompt\" or \"messages\"");
  }
  if (prompt != record.end()) {
    for (const char* chat : {"tools", "chat_template_kwargs"}) {
      if (record.contains(chat)) Fail(ErrorCode::kData, "field \"", chat, "\" needs \"messages\"");
    }
    if (prompt->is_array()) {
      std::vector<int32_t> ids;
      for (const Json& id : *prompt) ids.push_back(static_cast<int32_t>(Whole("prompt", id, 0, 1 << 30, "token ids")));
      return ids;
    }
    if (!prompt->is_string() || prompt->get_ref<const std::string&>().empty())
      Wrong("prompt", *prompt, "a text that is not empty");
    return model.Tokenize(prompt->get_ref<const std::string&>());
  }
  if (!messages->is_array() || messages->empty()) Wrong("messages", *messages, "a list with messages");
  ChatOptions options;
  if (const auto tools = record.find("tools"); tools != record.end()) options.tools = tools->dump();
  if (const auto variables = record.find("chat_template_kwargs"); variables != record.end()) {
    if (!variables->is_object()) Wrong("chat_template_kwargs", *variables, "an object");
    options.variables = variables->dump();
  }
  return model.TokenizeChat(messages->dump(), options);
}

}  // namespace

Request RequestOf(const Json& record, const Request& defaults, const std::vector<std::string>& grafts,
                  const Model& model, Adapters& adapters) {
  if (!record.is_object()) Fail(ErrorCode::kData, "a record is ", record.type_name(), ", expected object");
  Request request = defaults;
  for (const auto& [field, value] : record.items()) {
    const auto setter = Setters().find(field);
    if (setter == Setters().end()) {
      Fail(ErrorCode::kData, "field \"", field.substr(0, 60),
           "\" is not known; docs/cli.md lists what a record may hold");
    }
    if (!value.is_null()) setter->second(request, field, value);
  }
  if (!record.contains("seed") || record["seed"].is_null())
    request.sampling.seed = SeedOf(record, defaults.sampling.seed);
  if (auto constraint = cambium::ConstraintOf(model, record)) request.constraint = std::move(constraint);
  const auto own = record.find("grafts");
  request.adapters = adapters.Load(model, own != record.end() && !own->is_null() ? GraftNames(*own) : grafts);
  request.prompt = PromptOf(record, model);
  return request;
}

}  // namespace cambium::cli
