#include "cambium/constraint.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "engine/constraint_impl.h"
#include "grammar/gbnf.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"
#include "io/json.h"

namespace cambium {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();
constexpr size_t kMostBytes = size_t{4} << 20;  // of a schema, a grammar, an expression

std::shared_ptr<const Vocabulary> MakeVocabulary(const Tokenizer& tokenizer) {
  std::vector<std::string> pieces(static_cast<size_t>(tokenizer.text_size()));
  for (int32_t id = 0; id < tokenizer.text_size(); ++id) {
    const TokenType type = tokenizer.Type(id);
    if (tokenizer.IsEndOfGeneration(id) || type == TokenType::kUnknown || type == TokenType::kUnused) continue;
    const std::string_view piece = tokenizer.Piece(id);
    pieces[static_cast<size_t>(id)] = type == TokenType::kControl ? ControlText(piece) : std::string(piece);
  }
  return std::make_shared<const Vocabulary>(std::move(pieces), tokenizer.end_of_generation());
}

class Matcher : public TokenConstraint {
 public:
  Matcher(std::shared_ptr<const CompiledGrammar> grammar, size_t prompt)
      : matcher_(std::move(grammar)), prompt_(prompt) {}

  void Apply(std::span<const int32_t> text, std::span<float> logits) override {
    Seek(text);
    const TokenSet& mask = matcher_.Mask();
    if (mask.First(1).empty()) Fail(ErrorCode::kRuntime, "the vocabulary has no token that the constraint allows here");
    const std::vector<uint64_t>& words = mask.words();
    for (size_t i = 0; i < logits.size(); i += 64) {
      const uint64_t word = i / 64 < words.size() ? words[i / 64] : 0;
      const auto few = logits.subspan(i, std::min<size_t>(64, logits.size() - i));
      if (word == 0) {
        std::ranges::fill(few, kForbidden);
        continue;
      }
      for (uint64_t rest = ~word; rest != 0; rest &= rest - 1) {
        const auto bit = static_cast<size_t>(std::countr_zero(rest));
        if (bit < few.size()) few[bit] = kForbidden;
      }
    }
  }
  bool Allows(std::span<const int32_t> text, int32_t token) override {
    return matcher_.Seek(text.subspan(prompt_)) && matcher_.Allows(token);
  }
  std::vector<int32_t> Forced(std::span<const int32_t> text) override {
    return matcher_.Seek(text.subspan(prompt_)) ? matcher_.Forced() : std::vector<int32_t>();
  }

 private:
  void Seek(std::span<const int32_t> text) {
    if (matcher_.Seek(text.subspan(prompt_))) return;
    Fail(ErrorCode::kRuntime, "bias or a filter left no token that the constraint allows");
  }

  TokenMatcher matcher_;
  size_t prompt_;
};

void RequireSize(std::string_view text, const char* what) {
  if (text.size() <= kMostBytes) return;
  Fail(ErrorCode::kUsage, what, " has ", text.size(), " bytes, the limit is ", kMostBytes);
}

}  // namespace

const std::shared_ptr<const Vocabulary>& Model::Impl::vocabulary() {
  std::call_once(vocabulary_made, [&] { vocabulary_tree = MakeVocabulary(tokenizer); });
  return vocabulary_tree;
}

Constraint CompileConstraint(const Model& model, const std::function<Rules::Expr(Rules& rules)>& write) {
  Rules rules;
  const Rules::Rule root = rules.NewRule("answer");
  rules.Define(root, write(rules));
  auto impl = std::make_shared<Constraint::Impl>();
  impl->model = model.shared();
  impl->grammar = std::make_shared<const CompiledGrammar>(model.shared()->vocabulary(), rules, root);
  return Constraint(std::move(impl));
}

std::shared_ptr<TokenConstraint> MatcherOf(const Constraint& constraint, size_t prompt) {
  return std::make_shared<Matcher>(constraint.shared()->grammar, prompt);
}

Constraint Constraint::JsonSchema(const Model& model, std::string_view schema) { return JsonSchema(model, schema, {}); }

Constraint Constraint::JsonSchema(const Model& model, std::string_view schema, const JsonOptions& options) {
  RequireSize(schema, "json_schema");
  return CompileConstraint(model, [&](Rules& rules) {
    nlohmann::ordered_json parsed;
    try {
      parsed = ParseOrderedJson(schema, "json_schema");
    } catch (const Error& error) {
      throw Error(ErrorCode::kUsage, error.what());
    }
    return CompileJsonSchema(parsed, "json_schema", {options.spaced}, rules);
  });
}

Constraint Constraint::Regex(const Model& model, std::string_view pattern) {
  RequireSize(pattern, "regex");
  return CompileConstraint(model, [&](Rules& rules) {
    return CompileRegex(pattern, RegexMatch::kWhole, "regex", rules.budget()).Utf8(rules);
  });
}

Constraint Constraint::Choice(const Model& model, std::span<const std::string> texts) {
  if (texts.empty()) Fail(ErrorCode::kUsage, "choice is empty");
  size_t bytes = 0;
  for (const std::string& text : texts) bytes += text.size();
  if (bytes > kMostBytes) Fail(ErrorCode::kUsage, "choice has ", bytes, " bytes, the limit is ", kMostBytes);
  return CompileConstraint(model, [&](Rules& rules) { return rules.Texts({texts.begin(), texts.end()}); });
}

Constraint Constraint::Grammar(const Model& model, std::string_view gbnf) {
  RequireSize(gbnf, "grammar");
  return CompileConstraint(model, [&](Rules& rules) { return CompileGbnf(gbnf, rules); });
}

bool Constraint::Accepts(std::string_view text) const {
  Acceptor acceptor(impl_->grammar->program);
  const Acceptor::Set end = acceptor.Run(acceptor.Begin(), text);
  return end != Acceptor::kDead && acceptor.complete(end);
}

}  // namespace cambium
