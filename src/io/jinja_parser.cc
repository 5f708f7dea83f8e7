#include <algorithm>
#include <charconv>

#include "cambium/error.h"
#include "io/jinja_ast.h"
#include "io/jinja_lexer.h"

namespace cambium::jinja {
namespace {

constexpr int kMaxDepth = 200;        // of the syntax tree
constexpr size_t kMaxNodes = 200000;  // in one template

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(Lex(source)) {}

  Template Run() {
    template_.body = ParseBody({});
    return std::move(template_);
  }

 private:
  using Kids = std::vector<const Node*>;

  const Token& Now() const { return tokens_[at_]; }
  bool Is(TokenKind kind, std::string_view text) const { return Now().kind == kind && Now().text == text; }
  bool IsOp(std::string_view text) const { return Is(TokenKind::kOperator, text); }
  bool IsWord(std::string_view text) const { return Is(TokenKind::kName, text); }
  Token Take() { return tokens_[Now().kind == TokenKind::kEnd ? at_ : at_++]; }
  bool SkipOp(std::string_view text) { return IsOp(text) && ++at_; }
  bool SkipWord(std::string_view text) { return IsWord(text) && ++at_; }

  template <class... Parts>
  [[noreturn]] void Bad(const Parts&... parts) const {
    Fail(ErrorCode::kData, "chat template: line ", Now().line, ": ", parts...);
  }
  std::string Described() const {
    switch (Now().kind) {
      case TokenKind::kEnd:
        return "the end of the template";
      case TokenKind::kBlockEnd:
      case TokenKind::kPrintEnd:
        return "the end of the tag";
      case TokenKind::kData:
        return "text";
      default:
        return "\"" + Now().text.substr(0, 40) + "\"";
    }
  }
  void ExpectOp(std::string_view text) {
    if (!SkipOp(text)) Bad("\"", text, "\" expected, got ", Described());
  }
  void ExpectWord(std::string_view text) {
    if (!SkipWord(text)) Bad("\"", text, "\" expected, got ", Described());
  }
  void Expect(TokenKind kind, std::string_view what) {
    if (Now().kind != kind) Bad(what, " expected, got ", Described());
    ++at_;
  }
  std::string Name() {
    if (Now().kind != TokenKind::kName) Bad("a name expected, got ", Described());
    return Take().text;
  }

  // Guards the parser's own recursion.
  struct Level {
    explicit Level(Parser* parser) : parser(parser) {
      if (++parser->level_ > kMaxDepth) parser->Bad("nested deeper than ", kMaxDepth);
    }
    ~Level() { --parser->level_; }
    Parser* parser;
  };

  Node* New(NodeKind kind, Kids kids = {}, std::string text = "") {
    if (template_.nodes.size() >= kMaxNodes) Bad("more than ", kMaxNodes, " nodes");
    Node& node = template_.nodes.emplace_back(Node{.kind = kind,
                                                   .line = Now().line,
                                                   .text = std::move(text),
                                                   .value = {},
                                                   .kids = std::move(kids),
                                                   .operators = {},
                                                   .args = {},
                                                   .keywords = {},
                                                   .parameters = {},
                                                   .bodies = {}});
    for (const Node* kid : node.kids) Under(&node, kid);
    return &node;
  }
  void Under(Node* node, const Node* kid) const {
    if (kid != nullptr) node->depth = std::max(node->depth, kid->depth + 1);
    if (node->depth > kMaxDepth) Bad("nested deeper than ", kMaxDepth);
  }
  Node* Constant(Value value) {
    Node* node = New(NodeKind::kConst);
    node->value = std::move(value);
    return node;
  }

  // ---- Expressions, from the loosest to the tightest binding.

  const Node* ParseExpression() {
    const Level level(this);
    const Node* value = ParseOr();
    while (SkipWord("if")) {
      const Node* condition = ParseOr();
      const Node* otherwise = SkipWord("else") ? ParseExpression() : nullptr;
      value = New(NodeKind::kConditional, {value, condition, otherwise});
    }
    return value;
  }

  const Node* ParseOr() {
    const Node* left = ParseAnd();
    while (SkipWord("or")) left = New(NodeKind::kOr, {left, ParseAnd()});
    return left;
  }

  const Node* ParseAnd() {
    const Node* left = ParseNot();
    while (SkipWord("and")) left = New(NodeKind::kAnd, {left, ParseNot()});
    return left;
  }

  const Node* ParseNot() {
    if (SkipWord("not")) {
      const Level level(this);
      return New(NodeKind::kNot, {ParseNot()});
    }
    return ParseCompare();
  }

  const Node* ParseCompare() {
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
  const Node* ParseBinary(std::initializer_list<std::string_view> operators, Next next) {
    const Node* left = next();
    while (Now().kind == TokenKind::kOperator &&
           std::find(operators.begin(), operators.end(), Now().text) != operators.end()) {
      std::string op = Take().text;
      left = New(NodeKind::kBinary, {left, next()}, std::move(op));
    }
    return left;
  }
  const Node* ParseSum() {
    return ParseBinary({"+", "-"}, [this] { return ParseConcat(); });
  }
  const Node* ParseConcat() {
    Kids parts{ParseProduct()};
    while (SkipOp("~")) parts.push_back(ParseProduct());
    return parts.size() == 1 ? parts[0] : New(NodeKind::kConcat, std::move(parts));
  }
  const Node* ParseProduct() {
    return ParseBinary({"*", "/", "//", "%"}, [this] { return ParsePower(); });
  }
  const Node* ParsePower() {
    return ParseBinary({"**"}, [this] { return ParseUnary(true); });
  }

  const Node* ParseUnary(bool with_filter) {
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

  const Node* ParsePrimary() {
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

  Kids ParseItems(std::string_view close) {
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

  const Node* ParseDict() {
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

  // One expression, or several with commas between them, which make a tuple.
  const Node* ParseTuple() {
    const Node* first = ParseExpression();
    if (!IsOp(",")) return first;
    Kids items{first};
    while (SkipOp(",")) {
      if (IsOp(")") || Now().kind == TokenKind::kBlockEnd || Now().kind == TokenKind::kPrintEnd) break;
      items.push_back(ParseExpression());
    }
    return New(NodeKind::kTuple, std::move(items));
  }

  const Node* ParsePostfix(const Node* node) {
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

  const Node* ParseSubscript(const Node* object) {
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

  Node* ParseCall(const Node* callee) {
    Node* node = New(NodeKind::kCall, {callee});
    ParseArguments(node);
    return node;
  }

  void ParseArguments(Node* node) {
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

  const Node* ParseFilters(const Node* node) {
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

  const Node* ParseFilter(const Node* input) {
    std::string name = Name();
    Node* node = New(NodeKind::kFilter, {input}, std::move(name));
    if (IsOp("(")) ParseArguments(node);
    return node;
  }

  const Node* ParseTest(const Node* input) {
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

  bool StartsTestArgument() const {
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

  // ---- Statements.

  // Until a block tag that starts with one of `ends`; its name stays the current token.
  Kids ParseBody(std::initializer_list<std::string_view> ends) {
    const Level level(this);
    Kids body;
    while (true) {
      switch (Now().kind) {
        case TokenKind::kData:
          body.push_back(New(NodeKind::kData, {}, Take().text));
          break;
        case TokenKind::kPrintBegin: {
          ++at_;
          const Node* expression = ParseTuple();
          body.push_back(New(NodeKind::kPrint, {expression}));
          Expect(TokenKind::kPrintEnd, "the end of the tag");
          break;
        }
        case TokenKind::kBlockBegin:
          ++at_;
          if (Now().kind == TokenKind::kName && std::find(ends.begin(), ends.end(), Now().text) != ends.end()) {
            return body;
          }
          body.push_back(ParseStatement());
          break;
        default:
          if (ends.size() > 0) Bad("\"", *(ends.end() - 1), "\" is missing");
          return body;
      }
    }
  }

  void EndOfTag() { Expect(TokenKind::kBlockEnd, "the end of the tag"); }

  Kids TagBody(std::string_view end) {
    EndOfTag();
    Kids body = ParseBody({end});
    ExpectWord(end);
    EndOfTag();
    return body;
  }

  void AddBody(Node* node, Kids body) {
    for (const Node* kid : body) Under(node, kid);
    node->bodies.push_back(std::move(body));
  }

  const Node* ParseStatement() {
    const std::string name = Name();
    if (name == "if") return ParseIf();
    if (name == "for") return ParseFor();
    if (name == "set") return ParseSet();
    if (name == "macro") return ParseMacro();
    if (name == "call") return ParseCallBlock();
    if (name == "filter") {
      const Node* filter = ParseFilters(ParseFilter(nullptr));
      Node* node = New(NodeKind::kFilterBlock, {filter});
      AddBody(node, TagBody("endfilter"));
      return node;
    }
    if (name == "with") return ParseWith();
    if (name == "generation") {
      Node* node = New(NodeKind::kBlock);
      AddBody(node, TagBody("endgeneration"));
      return node;
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) Bad("\"", name, "\" outside a loop");
      EndOfTag();
      return New(name == "break" ? NodeKind::kBreak : NodeKind::kContinue);
    }
    Bad("the tag \"", name.substr(0, 40), "\" is not known");
  }

  const Node* ParseIf() {
    Node* node = New(NodeKind::kIf);
    while (true) {
      const Node* condition = ParseTuple();
      node->kids.push_back(condition);
      Under(node, condition);
      EndOfTag();
      AddBody(node, ParseBody({"elif", "else", "endif"}));
      if (!SkipWord("elif")) break;
    }
    if (SkipWord("else")) {
      EndOfTag();
      AddBody(node, ParseBody({"endif"}));
    }
    ExpectWord("endif");
    EndOfTag();
    return node;
  }

  // A name, ns.name, or a tuple of targets.
  const Node* ParseTarget(bool with_namespace) {
    const Level level(this);
    const auto one = [&]() -> const Node* {
      if (SkipOp("(")) {
        const Node* inner = ParseTarget(false);
        ExpectOp(")");
        return inner;
      }
      std::string name = Name();
      for (std::string_view reserved : {"true", "false", "none", "True", "False", "None"}) {
        if (name == reserved) Bad("cannot assign to \"", name, "\"");
      }
      const Node* node = New(NodeKind::kName, {}, std::move(name));
      if (with_namespace && SkipOp(".")) node = New(NodeKind::kAttribute, {node}, Name());
      return node;
    };
    Kids targets{one()};
    bool tuple = false;
    while (SkipOp(",")) {
      tuple = true;
      if (IsOp("=") || IsWord("in") || IsOp(")")) break;
      targets.push_back(one());
    }
    return tuple ? New(NodeKind::kTuple, std::move(targets)) : targets[0];
  }

  const Node* ParseFor() {
    const Node* target = ParseTarget(false);
    ExpectWord("in");
    // The `if` that follows is the loop's filter and not a conditional expression.
    const Node* sequence = ParseOr();
    if (IsOp(",")) {
      Kids items{sequence};
      while (SkipOp(",")) items.push_back(ParseOr());
      sequence = New(NodeKind::kTuple, std::move(items));
    }
    const Node* condition = SkipWord("if") ? ParseExpression() : nullptr;
    if (IsWord("recursive")) Bad("recursive loops are not supported");
    Node* node = New(NodeKind::kFor, {target, sequence, condition});
    EndOfTag();
    ++loops_;
    AddBody(node, ParseBody({"else", "endfor"}));
    --loops_;
    if (SkipWord("else")) {
      EndOfTag();
      AddBody(node, ParseBody({"endfor"}));
    }
    ExpectWord("endfor");
    EndOfTag();
    return node;
  }

  const Node* ParseSet() {
    const Node* target = ParseTarget(true);
    if (SkipOp("=")) {
      const Node* value = ParseTuple();
      EndOfTag();
      return New(NodeKind::kSet, {target, value});
    }
    const Node* filter = SkipOp("|") ? ParseFilters(ParseFilter(nullptr)) : nullptr;
    Node* node = New(NodeKind::kSetBlock, {target, filter});
    AddBody(node, TagBody("endset"));
    return node;
  }

  void ParseParameters(Node* node) {
    ExpectOp("(");
    for (bool first = true; !SkipOp(")"); first = false) {
      if (!first) ExpectOp(",");
      node->parameters.push_back(Name());
      if (SkipOp("=")) {
        node->kids.push_back(ParseExpression());
        Under(node, node->kids.back());
      } else if (!node->kids.empty()) {
        Bad("a parameter without a default follows one with a default");
      }
    }
  }

  // A macro's body is not inside the loop around it.
  void MacroBody(Node* node, std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    AddBody(node, TagBody(end));
    loops_ = loops;
  }

  const Node* ParseMacro() {
    Node* node = New(NodeKind::kMacro, {}, Name());
    ParseParameters(node);
    MacroBody(node, "endmacro");
    return node;
  }

  const Node* ParseCallBlock() {
    Node* macro = New(NodeKind::kMacro, {}, "caller");
    if (IsOp("(")) ParseParameters(macro);
    const Node* call = ParseUnary(false);
    if (call->kind != NodeKind::kCall) Bad("a call expected");
    MacroBody(macro, "endcall");
    return New(NodeKind::kCallBlock, {call, macro});
  }

  const Node* ParseWith() {
    Node* node = New(NodeKind::kWith);
    while (Now().kind != TokenKind::kBlockEnd) {
      if (!node->kids.empty()) ExpectOp(",");
      const Node* target = ParseTarget(false);
      ExpectOp("=");
      const Node* value = ParseExpression();
      node->kids.push_back(target);
      node->kids.push_back(value);
      Under(node, value);
    }
    AddBody(node, TagBody("endwith"));
    return node;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int level_ = 0;
  int loops_ = 0;
  Template template_;
};

}  // namespace

Template Parse(std::string_view source) {
  constexpr size_t kMaxSource = size_t{1} << 20;
  if (source.size() > kMaxSource) Fail(ErrorCode::kData, "chat template: ", source.size(), " bytes");
  return Parser(source).Run();
}

}  // namespace cambium::jinja
