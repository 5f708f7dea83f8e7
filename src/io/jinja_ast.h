#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/jinja_value.h"

namespace cambium::jinja {

enum class NodeKind {
  // Expressions.
  kConst,
  kName,
  kList,
  kTuple,
  kDict,
  kAttribute,
  kItem,
  kSlice,
  kCall,
  kFilter,
  kTest,
  kNot,
  kNegate,
  kPlus,
  kBinary,
  kConcat,
  kAnd,
  kOr,
  kCompare,
  kConditional,
  // Statements.
  kData,
  kPrint,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kGeneration,
  kBreak,
  kContinue,
};

// One node of a parsed template. What `kids` holds, by kind:
//   kList kTuple: items; kDict: key, value, ...; kAttribute: object (name in text); kItem: object, index;
//   kSlice: object, start, stop, step (null: absent); kCall: callee; kFilter: input (null inside a filter block);
//   kTest: input; kBinary kConcat kAnd kOr: operands; kCompare: operands, with `operators` between them;
//   kConditional: value, condition, otherwise (null: undefined); kPrint: expression; kIf: conditions, with a branch
//   each; kFor: target, sequence, condition (may be null); kSet: target, value; kSetBlock: target, filter (may be
//   null); kMacro: default values, for the last parameters; kCallBlock: call; kFilterBlock: filter; kWith: targets and
//   values in turn.
struct Node {
  NodeKind kind;
  int line;
  int depth = 1;     // of the tree below
  std::string text;  // name, operator or data
  Value value;       // of kConst
  std::vector<const Node*> kids;
  std::vector<std::string> operators;                         // kCompare: "==", "in", "not in", ...
  std::vector<const Node*> args;                              // of calls, filters and tests
  std::vector<std::pair<std::string, const Node*>> keywords;  // of calls, filters and tests
  std::vector<std::string> parameters;                        // of kMacro and kCallBlock
  std::vector<std::vector<const Node*>> bodies;               // branches; for's second one is its else
};

struct Template {
  std::deque<Node> nodes;  // owns every node, so that nothing is destroyed recursively
  std::vector<const Node*> body;
};

// kData with the line for a template that is malformed or uses what the subset leaves out.
Template Parse(std::string_view source);

}  // namespace cambium::jinja
