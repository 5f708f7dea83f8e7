#include "io/jinja_parser.h"

namespace cambium::jinja {
namespace {

class Parser : ExpressionParser {
 public:
  explicit Parser(std::string_view source) : ExpressionParser(source) {}

  Template Run() {
    template_.body = ParseBody({});
    return std::move(template_);
  }

 private:
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
      Node* node = New(NodeKind::kGeneration);
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

  int loops_ = 0;
};

}  // namespace

Template Parse(std::string_view source) {
  constexpr size_t kMaxSource = size_t{1} << 20;
  if (source.size() > kMaxSource) Fail(ErrorCode::kData, "chat template: ", source.size(), " bytes");
  return Parser(source).Run();
}

}  // namespace cambium::jinja
