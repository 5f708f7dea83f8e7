// A schema, an expression or a grammar, by the first byte: compiled, walked along its own masks, and every token that a
// mask allows must be one that the automaton takes.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cambium/error.h"
#include "grammar/gbnf.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"
#include "grammar/token_matcher.h"
#include "io/json.h"

namespace cambium {
namespace {

constexpr int kTokens = 24;  // of an answer

std::shared_ptr<const Vocabulary> MakeVocabulary() {
  std::vector<std::string> pieces;
  for (int byte = 0; byte < 256; ++byte) pieces.emplace_back(1, static_cast<char>(byte));
  for (const char* piece : {"{\"", "\":", "\",\"", "},{", "true", "false", "null", "ab", "12", "\xC3\xA9", "\\u00"}) {
    pieces.emplace_back(piece);
  }
  pieces.emplace_back();
  return std::make_shared<const Vocabulary>(std::move(pieces), std::vector<int32_t>{267});
}

Rules::Expr Compile(char kind, std::string_view text, Rules& rules) {
  if (kind == 'r') return CompileRegex(text, RegexMatch::kWhole, "regex", rules.budget()).Utf8(rules);
  if (kind == 'p') return CompileRegex(text, RegexMatch::kSearch, "pattern", rules.budget()).Utf8(rules);
  if (kind == 'g') return CompileGbnf(text, rules);
  JsonLimits limits;
  limits.max_bytes = size_t{1} << 16;
  return CompileJsonSchema(ParseOrderedJson(text, "schema", limits), "schema", {kind == 's'}, rules);
}

void Walk(const std::shared_ptr<const CompiledGrammar>& grammar, uint64_t seed) {
  TokenMatcher matcher(grammar);
  Acceptor plain(grammar->program);
  Acceptor::Set set = plain.Begin();
  std::vector<int32_t> answer;
  for (int i = 0; i < kTokens; ++i) {
    if (!matcher.Seek(answer)) __builtin_trap();
    const std::vector<int32_t> ids = matcher.Mask().First(4096);
    TokenSet wanted(grammar->masks.vocabulary().tokens());
    grammar->masks.CollectPlainly(plain, set, wanted);
    std::vector<int32_t> expected = wanted.First(4096);
    if (plain.complete(set)) expected.push_back(267);
    if (ids != expected) __builtin_trap();
    for (const int32_t forced : matcher.Forced()) {
      if (!matcher.Allows(forced)) __builtin_trap();
    }
    if (ids.empty() || ids == std::vector<int32_t>{267}) return;
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    const int32_t id = ids[(seed >> 33) % ids.size()];
    if (id == 267) return;
    answer.push_back(id);
    set = plain.Run(set, grammar->masks.vocabulary().piece(id));
    if (set == Acceptor::kDead) __builtin_trap();
  }
}

}  // namespace
}  // namespace cambium

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cambium;
  if (size < 2 || size > 4096) return 0;
  static const std::shared_ptr<const Vocabulary> vocabulary = MakeVocabulary();
  try {
    Rules rules;
    const Rules::Rule root = rules.NewRule("answer");
    rules.Define(root, Compile(static_cast<char>(data[0]),
                               std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1), rules));
    const auto grammar = std::make_shared<const CompiledGrammar>(vocabulary, rules, root);
    uint64_t seed = size;
    for (size_t i = 0; i < size; ++i) seed = seed * 31 + data[i];
    for (int i = 0; i < 3; ++i) Walk(grammar, seed + static_cast<uint64_t>(i));
  } catch (const Error&) {
  }
  return 0;
}
