// grammar_bench MODEL --pieces OUT.jsonl: the vocabulary, for tools/compare_masks.py.
// grammar_bench MODEL --suite IN.jsonl: for each line {"schema", "values"} a line {"accepts"} or {"refused"}, for
// tools/check_schema_suite.py.
// grammar_bench MODEL CASES.jsonl: compiles each case's `schema`, goes along its `ids`, and makes the mask at each
// place; prints times. Where a case has `masks` (base64 of bits, a string a place), they are compared, and what differs
// is printed.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "engine/constraint_impl.h"
#include "grammar/json_schema.h"

namespace cambium {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

double Micros(Clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); }

std::vector<uint8_t> Base64(const std::string& text) {
  static const std::string kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<uint8_t> bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string::npos) continue;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if ((count += 6) < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<uint8_t>(bits >> count));
  }
  return bytes;
}

void Print(const char* what, std::vector<double> micros) {
  if (micros.empty()) return;
  std::ranges::sort(micros);
  const auto at = [&](double share) {
    return micros[static_cast<size_t>(share * static_cast<double>(micros.size() - 1))];
  };
  std::printf("%-22s n %7zu  median %9.1f us  90%% %9.1f  99%% %9.1f  max %9.1f\n", what, micros.size(), at(0.5),
              at(0.9), at(0.99), micros.back());
}

void WritePieces(const Model& model, const std::string& path) {
  const Vocabulary& vocabulary = *model.shared()->vocabulary();
  std::ofstream file(path);
  for (int32_t id = 0; id < vocabulary.tokens(); ++id) {
    Json bytes = Json::array();
    for (const char c : vocabulary.piece(id)) bytes.push_back(static_cast<unsigned char>(c));
    file << Json({{"bytes", bytes}, {"end", model.IsEnd(id)}}).dump() << "\n";
  }
}

void RunSuite(const Model& model, const std::string& path) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const Json one = Json::parse(line);
    Json answer;
    const Clock::time_point start = Clock::now();
    try {
      const Constraint constraint = Constraint::JsonSchema(model, one["schema"].dump());
      answer["accepts"] = Json::array();
      for (const Json& value : one["values"]) answer["accepts"].push_back(constraint.Accepts(JsonText(value, {})));
    } catch (const Error& error) {
      answer = {{"refused", error.what()}};
    }
    answer["ms"] = Micros(Clock::now() - start) / 1000;
    std::printf("%s\n", answer.dump().c_str());
  }
}

// The tokens that only one of the two masks has.
int64_t Differences(const Vocabulary& vocabulary, const TokenSet& ours, const std::vector<uint8_t>& theirs,
                    const std::string& where) {
  int64_t count = 0;
  std::string shown;
  for (int32_t id = 0; id < vocabulary.tokens(); ++id) {
    const auto byte = static_cast<size_t>(id) / 8;
    const bool other = byte < theirs.size() && (theirs[byte] >> (id % 8) & 1) != 0;
    if (ours.has(id) == other) continue;
    if (++count <= 5)
      shown += (other ? " -" : " +") +
               Json(std::string(vocabulary.piece(id))).dump(-1, ' ', true, Json::error_handler_t::replace);
  }
  if (count > 0)
    std::printf("%s: %lld tokens differ:%s\n", where.c_str(), static_cast<long long>(count), shown.c_str());
  return count;
}

void Run(const Model& model, const std::string& path) {
  std::ifstream file(path);
  std::vector<double> compile, first, warm;
  int64_t number = 0, refused = 0, places = 0, differing = 0;
  model.shared()->vocabulary();
  for (std::string line; std::getline(file, line); ++number) {
    const Json one = Json::parse(line);
    std::optional<Constraint> constraint;
    Clock::time_point start = Clock::now();
    try {
      constraint = Constraint::JsonSchema(model, one["schema"].dump());
    } catch (const Error& error) {
      ++refused;
      std::printf("%lld refused: %s\n", static_cast<long long>(number), error.what());
      continue;
    }
    compile.push_back(Micros(Clock::now() - start));
    const auto ids = one["ids"].get<std::vector<int32_t>>();
    for (std::vector<double>* times : {&first, &warm}) {
      TokenMatcher matcher(constraint->shared()->grammar);
      for (size_t i = 0; i <= ids.size(); ++i) {
        start = Clock::now();
        if (!matcher.Seek(std::span(ids).first(i))) {
          std::printf("%lld: token %zu is not accepted\n", static_cast<long long>(number), i - 1);
          break;
        }
        const TokenSet& mask = matcher.Mask();
        times->push_back(Micros(Clock::now() - start));
        if (times != &first || !one.contains("masks") || i >= one["masks"].size()) continue;
        if (one["masks"][i] == "") continue;  // llguidance names one token where the text is forced
        ++places;
        const std::string where = std::to_string(number) + "." + std::to_string(i);
        if (Differences(*model.shared()->vocabulary(), mask, Base64(one["masks"][i].get<std::string>()), where) > 0)
          ++differing;
      }
    }
  }
  std::printf("%lld schemas, %lld refused\n", static_cast<long long>(number), static_cast<long long>(refused));
  Print("compile", compile);
  Print("mask, first answer", first);
  Print("mask, second answer", warm);
  if (places > 0)
    std::printf("%lld masks compared, %lld differ\n", static_cast<long long>(places),
                static_cast<long long>(differing));
}

}  // namespace
}  // namespace cambium

int main(int argc, char** argv) {
  try {
    if (argc < 3) throw std::runtime_error("grammar_bench MODEL (CASES.jsonl | --pieces OUT.jsonl)");
    const cambium::Model model = cambium::Model::Load(argv[1], 1);
    if (std::string(argv[2]) == "--pieces") {
      cambium::WritePieces(model, argc > 3 ? argv[3] : "pieces.jsonl");
    } else if (std::string(argv[2]) == "--suite") {
      cambium::RunSuite(model, argc > 3 ? argv[3] : "/dev/stdin");
    } else {
      cambium::Run(model, argv[2]);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
