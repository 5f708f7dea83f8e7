// structured_bench MODEL [ROUNDS]: what a schema costs and what its forced text saves: records and calls of tools,
// greedy, without drafts and with them, beside as many tokens of plain decoding. The three alternate; ratios are
// medians over rounds, each of sums over all answers. Tokens with and without drafts must be the same.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cambium/cambium.h"
#include "engine/constraint_fields.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kRecords = R"([
{"prompt": "Ticket: the printer on floor 3 is jammed again and people wait.\nRecord as JSON:\n",
 "schema": {"type": "object", "required": ["category", "priority", "summary", "needs_visit", "floor"], "properties": {
   "category": {"enum": ["hardware", "software", "network", "other"]}, "priority": {"enum": ["low", "medium", "high"]},
   "summary": {"type": "string", "maxLength": 60}, "needs_visit": {"type": "boolean"},
   "floor": {"type": "integer", "minimum": 0, "maximum": 9}}}},
{"prompt": "Ada Lovelace was born in London in 1815 and was a mathematician.\nPerson as JSON:\n",
 "schema": {"type": "object", "required": ["first_name", "last_name", "birth_year", "birth_place", "occupation"],
   "properties": {"first_name": {"type": "string", "maxLength": 20}, "last_name": {"type": "string", "maxLength": 20},
   "birth_year": {"type": "integer", "minimum": 1000, "maximum": 2030}, "birth_place": {"type": "string", "maxLength": 20},
   "occupation": {"type": "string", "maxLength": 30}}}},
{"prompt": "Review: the soup was cold but the staff were friendly.\nSentiment as JSON:\n",
 "schema": {"type": "object", "required": ["sentiment", "confidence", "aspects"], "properties": {
   "sentiment": {"enum": ["positive", "neutral", "negative"]}, "confidence": {"enum": ["low", "medium", "high"]},
   "aspects": {"type": "array", "minItems": 2, "maxItems": 3, "items": {"type": "object", "required": ["aspect", "sentiment"],
     "properties": {"aspect": {"enum": ["food", "service", "price"]},
                    "sentiment": {"enum": ["positive", "neutral", "negative"]}}}}}}}])";

constexpr const char* kTools = R"([
{"prompt": "Weather in Oslo for 3 days?\n", "tools": [0]}, {"prompt": "Mail Ada about lunch.\n", "tools": [1]},
{"prompt": "What is the weather in Rome tomorrow?\n", "tools": [0, 1]}])";
constexpr const char* kDeclared = R"([
{"name": "get_current_weather", "parameters": {"type": "object",
  "required": ["location", "temperature_unit", "number_of_days"], "properties": {
  "location": {"enum": ["Paris", "Oslo", "Rome"]}, "temperature_unit": {"enum": ["celsius", "fahrenheit"]},
  "number_of_days": {"type": "integer", "minimum": 1, "maximum": 9}}}},
{"name": "send_email_message", "parameters": {"type": "object",
  "required": ["recipient_address", "subject_line", "high_priority"], "properties": {
  "recipient_address": {"enum": ["ada@example.com", "bob@example.com"]},
  "subject_line": {"type": "string", "maxLength": 20}, "high_priority": {"type": "boolean"}}}}])";

struct Case {
  std::string prompt;
  Json schema, tools;
  Constraint Compile(const Model& model) const {
    return tools.is_null() ? Constraint::JsonSchema(model, schema.dump()) : ToolConstraint(model, tools, false);
  }
};

std::vector<Case> Cases(bool tools) {
  std::vector<Case> cases;
  const Json declared = Json::parse(kDeclared);
  for (const Json& one : Json::parse(tools ? kTools : kRecords)) {
    Case& added = cases.emplace_back(Case{one["prompt"], one.value("schema", Json()), {}});
    if (!tools) continue;
    for (const Json& index : one["tools"]) {
      added.tools.push_back({{"type", "function"}, {"function", declared[index.get<size_t>()]}});
    }
  }
  return cases;
}

double Median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

struct Kind {
  const char* name;
  bool bound;
  std::vector<std::string> drafters;
};

void Measure(Engine& engine, const char* title, const std::vector<Case>& cases, int rounds, bool fresh) {
  const Kind kinds[] = {{"plain", false, {"none"}}, {"bound", true, {"none"}}, {"drafted", true, {"auto"}}};
  std::vector<Constraint> kept;
  for (const Case& one : cases) kept.push_back(one.Compile(engine.model()));
  std::vector<double> plain, bound, drafted;
  int64_t passes = 0, tokens = 0;
  for (int round = 0; round < rounds; ++round) {
    double ms[3] = {}, count[3] = {};
    for (size_t i = 0; i < cases.size(); ++i) {
      std::vector<int32_t> ids;
      for (const size_t k : {size_t{1}, size_t{0}, size_t{2}}) {
        Request request;
        request.prompt = engine.model().Tokenize(cases[i].prompt);
        request.max_tokens = k == 0 ? std::max<int64_t>(2, std::ssize(ids)) : 300;
        request.ignore_end = k == 0;
        request.sampling.temperature = 0;
        request.drafting.drafters = kinds[k].drafters;
        if (kinds[k].bound) request.constraint = fresh ? cases[i].Compile(engine.model()) : kept[i];
        const Generation answer = engine.Generate(std::move(request));
        ms[k] += answer.timings.decode_ms;
        count[k] += static_cast<double>(answer.timings.decode_tokens);
        if (k == 1) ids = answer.ids;
        if (k == 2 && ids != answer.ids) std::printf("%s %zu: drafts changed the answer\n", title, i);
        if (k != 2) continue;
        passes += answer.draft.passes;
        tokens += answer.timings.decode_tokens;
      }
    }
    plain.push_back(ms[0] / count[0]);
    bound.push_back(plain.back() / (ms[1] / count[1]));
    drafted.push_back(plain.back() / (ms[2] / count[2]));
  }
  std::printf("%-8s %-6s plain %6.2f ms a token; bound %.3f of its speed, drafted %.3f; %.2f tokens a pass\n", title,
              fresh ? "fresh" : "known", Median(plain), Median(bound), Median(drafted),
              static_cast<double>(tokens) / static_cast<double>(passes));
}

}  // namespace
}  // namespace cambium

int main(int argc, char** argv) {
  try {
    if (argc < 2) throw std::runtime_error("structured_bench MODEL [ROUNDS]");
    cambium::EngineOptions options;
    options.context = 1024;
    cambium::Engine engine = cambium::Engine::Load(argv[1], options);
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 5;
    for (const bool fresh : {false, true}) {  // the constraint was used before, or is compiled for each request
      cambium::Measure(engine, "records", cambium::Cases(false), rounds, fresh);
      cambium::Measure(engine, "tools", cambium::Cases(true), rounds, fresh);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
