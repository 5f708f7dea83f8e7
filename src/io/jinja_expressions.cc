#include <charconv>

#include "io/jinja_parser.h"

namespace cambium::jinja {

Node* ExpressionParser::Constant(Value value) {
  Node* node = New(NodeKind::kConst);
  node->value = std::move(value);
  return node;
}

// From the loosest to the tightest binding.

const Node* ExpressionParser::ParseExpression() {
  const Level level(this);
  const Node* value = ParseOr();
  while (SkipWord("if")) {
    const Node* condition = ParseOr();
    const Node* otherwise = SkipWord("else") ? ParseExpression() : nullptr;
    value = New(NodeKind::kConditional, {value, condition, otherwise});
  }
  return value;
}

const Node* ExpressionParser::ParseOr() {
  const Node* left = ParseAnd();
  while (SkipWord("or")) left = New(NodeKind::kOr, {left, ParseAnd()});
  return left;
}

const Node* ExpressionParser::ParseAnd() {
  const Node* left = ParseNot();
  while (SkipWord("and")) left = New(NodeKind::kAnd, {left, ParseNot()});
  return left;
}

const Node* ExpressionParser::ParseNot() {
  if (SkipWord("not")) {
    const Level level(this);
    return New(NodeKind::kNot, {ParseNot()});
  }
  return ParseCompare();
}

const Node* ExpressionParser::ParseCompare() {
  Kids operands{ParseSum()};
  std::vector<std::string> operators;
  while (true) {
    if (IsOp("==") || IsOp("!=") || IsOp("<") || IsOp("<=") || IsOp(">") || IsOp(">=")) {
      operators.push_back(Take().text);
    } else if (SkipWord("in")) {
      operators.push_back("in");
    } else if (IsWord("not") && at_ + 1 < tokens_.size() && tokens_[at_ + 1].kind == TokenKind::kName &&
               tokens_[at_ + 1].text == "in") {
      at_ += 2;
      operators.push_back("not in");
    } else {
      break;
    }
    operands.push_back(ParseSum());
  }
  if (operators.empty()) return operands[0];
  Node* node = New(NodeKind::kCompare, std::move(operands));
  node->operators = std::move(operators);
  return node;
}

template <class Next>
const Node* ExpressionParser::ParseBinary(std::initializer_list<std::string_view> operators, Next next) {
  const Node* left = next();
  while (Now().kind == TokenKind::kOperator &&
         std::find(operators.begin(), operators.end(), Now().text) != operators.end()) {
    std::string op = Take().text;
    left = New(NodeKind::kBinary, {left, next()}, std::move(op));
  }
  return left;
}

const Node* ExpressionParser::ParseSum() {
  return ParseBinary({"+", "-"}, [this] { return ParseConcat(); });
}

const Node* ExpressionParser::ParseConcat() {
  Kids parts{ParseProduct()};
  while (SkipOp("~")) parts.push_back(ParseProduct());
  return parts.size() == 1 ? parts[0] : New(NodeKind::kConcat, std::move(parts));
}

const Node* ExpressionParser::ParseProduct() {
  return ParseBinary({"*", "/", "//", "%"}, [this] { return ParsePower(); });
}

const Node* ExpressionParser::ParsePower() {
  return ParseBinary({"**"}, [this] { return ParseUnary(true); });
}

const Node* ExpressionParser::ParseUnary(bool with_filter) {
  const Level level(this);
  const Node* node;
  if (SkipOp("-")) {
    node = New(NodeKind::kNegate, {ParseUnary(false)});
  } else if (SkipOp("+")) {
    node = New(NodeKind::kPlus, {ParseUnary(false)});
  } else {
    node = ParsePrimary();
  }
  node = ParsePostfix(node);
  return with_filter ? ParseFilters(node) : node;
}

const Node* ExpressionParser::ParsePrimary() {
  const Token token = Take();
  switch (token.kind) {
    case TokenKind::kName:
      if (token.text == "true" || token.text == "True") return Constant(true);
      if (token.text == "false" || token.text == "False") return Constant(false);
      if (token.text == "none" || token.text == "None") return Constant(Value());
      return New(NodeKind::kName, {}, token.text);
    case TokenKind::kString: {
      std::string text = token.text;
      while (Now().kind == TokenKind::kString) text += Take().text;
      return Constant(std::move(text));
    }
    case TokenKind::kInteger: {
      int64_t value = 0;
      const auto [end, error] = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      if (error != std::errc()) Bad("the integer ", token.text, " is too large");
      return Constant(value);
    }
    case TokenKind::kFloat: {
      double value = 0;
      std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      return Constant(value);
    }
    case TokenKind::kOperator:
      if (token.text == "(") {
        if (SkipOp(")")) return New(NodeKind::kTuple);
        const Node* inner = ParseTuple();
        ExpectOp(")");
        return inner;
      }
      if (token.text == "[") return New(NodeKind::kList, ParseItems("]"));
      if (token.text == "{") return ParseDict();
      break;
    default:
      break;
  }
  if (at_ > 0 && token.kind != TokenKind::kEnd) --at_;
  Bad("unexpected ", Described());
}

ExpressionParser::Kids ExpressionParser::ParseItems(std::string_view close) {
  const Level level(this);
  Kids items;
  while (!SkipOp(close)) {
    if (!items.empty()) {
      ExpectOp(",");
      if (SkipOp(close)) break;
    }
    items.push_back(ParseExpression());
  }
  return items;
}

const Node* ExpressionParser::ParseDict() {
  const Level level(this);
  Kids items;
  while (!SkipOp("}")) {
    if (!items.empty()) {
      ExpectOp(",");
      if (SkipOp("}")) break;
    }
    items.push_back(ParseExpression());
    ExpectOp(":");
    items.push_back(ParseExpression());
  }
  return New(NodeKind::kDict, std::move(items));
}

const Node* ExpressionParser::ParseTuple() {
  const Node* first = ParseExpression();
  if (!IsOp(",")) return first;
  Kids items{first};
  while (SkipOp(",")) {
    if (IsOp(")") || Now().kind == TokenKind::kBlockEnd || Now().kind == TokenKind::kPrintEnd) break;
    items.push_back(ParseExpression());
  }
  return New(NodeKind::kTuple, std::move(items));
}

const Node* ExpressionParser::ParsePostfix(const Node* node) {
  while (true) {
    if (SkipOp(".")) {
      if (Now().kind == TokenKind::kInteger) {
        const Node* index = ParsePrimary();
        node = New(NodeKind::kItem, {node, index});
      } else {
        node = New(NodeKind::kAttribute, {node}, Name());
      }
    } else if (SkipOp("[")) {
      node = ParseSubscript(node);
    } else if (IsOp("(")) {
      node = ParseCall(node);
    } else {
      return node;
    }
  }
}

const Node* ExpressionParser::ParseSubscript(const Node* object) {
  const Level level(this);
  const auto part = [this]() -> const Node* { return IsOp(":") || IsOp("]") ? nullptr : ParseExpression(); };
  const Node* start = part();
  if (!SkipOp(":")) {
    if (start == nullptr) Bad("an index expected");
    ExpectOp("]");
    return New(NodeKind::kItem, {object, start});
  }
  const Node* stop = part();
  const Node* step = SkipOp(":") ? part() : nullptr;
  ExpectOp("]");
  return New(NodeKind::kSlice, {object, start, stop, step});
}

Node* ExpressionParser::ParseCall(const Node* callee) {
  Node* node = New(NodeKind::kCall, {callee});
  ParseArguments(node);
  return node;
}

void ExpressionParser::ParseArguments(Node* node) {
  const Level level(this);
  ExpectOp("(");
  for (bool first = true; !SkipOp(")"); first = false) {
    if (!first) {
      ExpectOp(",");
      if (SkipOp(")")) return;
    }
    if (IsOp("*") || IsOp("**")) Bad("argument unpacking is not supported");
    if (Now().kind == TokenKind::kName && at_ + 1 < tokens_.size() && tokens_[at_ + 1].kind == TokenKind::kOperator &&
        tokens_[at_ + 1].text == "=") {
      std::string name = Name();
      ExpectOp("=");
      node->keywords.emplace_back(std::move(name), ParseExpression());
      Under(node, node->keywords.back().second);
    } else {
      if (!node->keywords.empty()) Bad("a positional argument after a keyword argument");
      node->args.push_back(ParseExpression());
      Under(node, node->args.back());
    }
  }
}

const Node* ExpressionParser::ParseFilters(const Node* node) {
  while (true) {
    if (IsOp("|")) {
      ++at_;
      node = ParseFilter(node);
    } else if (SkipWord("is")) {
      node = ParseTest(node);
    } else if (IsOp("(")) {
      node = ParseCall(node);
    } else {
      return node;
    }
  }
}

const Node* ExpressionParser::ParseFilter(const Node* input) {
  std::string name = Name();
  Node* node = New(NodeKind::kFilter, {input}, std::move(name));
  if (IsOp("(")) ParseArguments(node);
  return node;
}

const Node* ExpressionParser::ParseTest(const Node* input) {
  const bool negated = SkipWord("not");
  std::string name = Name();
  Node* node = New(NodeKind::kTest, {input}, std::move(name));
  if (IsOp("(")) {
    ParseArguments(node);
  } else if (StartsTestArgument()) {
    const Level level(this);
    node->args.push_back(ParsePostfix(ParsePrimary()));
    Under(node, node->args.back());
  }
  return negated ? New(NodeKind::kNot, {node}) : node;
}

bool ExpressionParser::StartsTestArgument() const {
  switch (Now().kind) {
    case TokenKind::kName:
      return Now().text != "else" && Now().text != "or" && Now().text != "and" && Now().text != "is" &&
             Now().text != "if" && Now().text != "not" && Now().text != "in";
    case TokenKind::kString:
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return true;
    default:
      return IsOp("[") || IsOp("{");
  }
}

}  // namespace cambium::jinja
