#pragma once

#include <functional>
#include <memory>

#include "cambium/constraint.h"
#include "decode/token_constraint.h"
#include "engine/impl.h"
#include "grammar/token_matcher.h"

namespace cambium {

struct Constraint::Impl {
  std::shared_ptr<Model::Impl> model;
  std::shared_ptr<const CompiledGrammar> grammar;
};

// The constraint that `write` writes.
Constraint CompileConstraint(const Model& model, const std::function<Rules::Expr(Rules& rules)>& write);
// The constraint over one request, whose prompt has `prompt` tokens.
std::shared_ptr<TokenConstraint> MatcherOf(const Constraint& constraint, size_t prompt);

}  // namespace cambium
