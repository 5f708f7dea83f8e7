#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cambium/error.h"
#include "io/jinja_ast.h"
#include "io/jinja_lexer.h"

namespace cambium::jinja {

// Reads the expressions of a template, by recursive descent; jinja_parser.cc adds the statements.
class ExpressionParser {
 protected:
  explicit ExpressionParser(std::string_view source) : tokens_(Lex(source)) {}

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
    explicit Level(ExpressionParser* parser) : parser(parser) {
      if (++parser->level_ > kMaxDepth) parser->Bad("nested deeper than ", kMaxDepth);
    }
    ~Level() { --parser->level_; }
    ExpressionParser* parser;
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

  const Node* ParseExpression();
  const Node* ParseOr();     // an expression without `if`
  const Node* ParseTuple();  // one expression, or several with commas between them, which make a tuple
  const Node* ParseUnary(bool with_filter);
  const Node* ParseFilter(const Node* input);
  const Node* ParseFilters(const Node* node);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  Template template_;

 private:
  static constexpr int kMaxDepth = 200;        // of the syntax tree
  static constexpr size_t kMaxNodes = 200000;  // in one template

  Node* Constant(Value value);
  const Node* ParseAnd();
  const Node* ParseNot();
  const Node* ParseCompare();
  template <class Next>
  const Node* ParseBinary(std::initializer_list<std::string_view> operators, Next next);
  const Node* ParseSum();
  const Node* ParseConcat();
  const Node* ParseProduct();
  const Node* ParsePower();
  const Node* ParsePrimary();
  Kids ParseItems(std::string_view close);
  const Node* ParseDict();
  const Node* ParsePostfix(const Node* node);
  const Node* ParseSubscript(const Node* object);
  Node* ParseCall(const Node* callee);
  void ParseArguments(Node* node);
  const Node* ParseTest(const Node* input);
  bool StartsTestArgument() const;

  int level_ = 0;
};

}  // namespace cambium::jinja
