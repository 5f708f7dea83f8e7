#include "io/jinja_interpreter.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "io/jinja_runtime.h"

namespace cambium::jinja {

struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string_view, Value>> names;  // views into the template or the globals
};

// Lives in the scope that defines it, and no value outlives its scope: namespaces and containers refuse macros.
struct Macro {
  const Node* node;
  Scope* scope;
};

struct LoopState {
  const std::vector<Value>* items;
  size_t index = 0;
  mutable std::vector<Value> changed;  // what loop.changed saw last
  mutable bool has_changed = false;
};

namespace {

constexpr int kMaxFrames = 600;  // nested evaluations, macros included: bounds the C++ stack

class Interpreter {
 public:
  Interpreter(const RenderLimits& limits, Scope* globals) : budget_(limits.fuel), limits_(limits), scope_(globals) {}

  MarkedText Run(const std::vector<const Node*>& body) {
    MarkedText out;
    out_ = &out;
    Execute(body);
    return out;
  }

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  using Body = std::vector<const Node*>;

  struct Frame {
    explicit Frame(Interpreter* interpreter) : interpreter(interpreter) {
      if (++interpreter->frames_ > kMaxFrames) TemplateError("calls nested deeper than ", kMaxFrames);
    }
    ~Frame() { --interpreter->frames_; }
    Interpreter* interpreter;
  };

  // A scope for the lifetime of this object.
  struct Inner {
    Inner(Interpreter* interpreter, Scope* parent) : interpreter(interpreter), outer(interpreter->scope_) {
      scope.parent = parent;
      interpreter->scope_ = &scope;
    }
    ~Inner() { interpreter->scope_ = outer; }
    Interpreter* interpreter;
    Scope* outer;
    Scope scope;
  };

  template <class Text>  // std::string: the template's own; or MarkedText
  void Emit(const Text& text) {
    budget_.SpendText(text);
    if (out_->size() + text.size() > limits_.max_output) {
      TemplateError("output of more than ", limits_.max_output, " bytes");
    }
    out_->Append(text);
  }

  MarkedText Capture(const Body& body) {
    MarkedText text;
    MarkedText* outer = std::exchange(out_, &text);
    try {
      Execute(body);
    } catch (...) {
      out_ = outer;
      throw;
    }
    out_ = outer;
    return text;
  }

  // {% generation %}: its text is marked as such.
  Flow Generation(const Node* node) {
    const size_t begin = out_->size(), before = out_->generated.size();
    const Flow flow = Execute(node->bodies[0]);
    out_->generated.resize(before);  // one inside another is part of it
    out_->generated.push_back({begin, out_->size(), TextMark::kData});
    return flow;
  }

  Value Lookup(const std::string& name) const {
    for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
      for (const auto& [key, value] : scope->names) {
        if (key == name) return value;
      }
    }
    return Value::UndefinedNamed(name);
  }

  void Assign(std::string_view name, Value value) {
    for (auto& [key, old] : scope_->names) {
      if (key == name) {
        old = std::move(value);
        return;
      }
    }
    scope_->names.emplace_back(name, std::move(value));
  }

  void AssignTarget(const Node* target, const Value& value) {
    if (target->kind == NodeKind::kName) {
      Assign(target->text, value);
    } else if (target->kind == NodeKind::kAttribute) {
      const Value object = Lookup(target->kids[0]->text);
      if (!object.Is<Value::Namespace>()) TemplateError("cannot assign attribute on a non-namespace");
      if (value.Is<const Macro*>() || value.Is<const LoopState*>() || value.Is<Value::Namespace>()) {
        TemplateError("a namespace cannot hold a ", value.TypeName());
      }
      auto& items = object.As<Value::Namespace>()->items;
      budget_.Spend(items.size());
      for (auto& [key, old] : items) {
        if (key == target->text) {
          old = value;
          return;
        }
      }
      items.emplace_back(target->text, value);
    } else {
      const std::vector<Value> items = Iterate(budget_, value);
      if (items.size() != target->kids.size()) {
        TemplateError(items.size(), " values for ", target->kids.size(), " names");
      }
      for (size_t i = 0; i < items.size(); ++i) AssignTarget(target->kids[i], items[i]);
    }
  }

  // ---- Expressions.

  Value Evaluate(const Node* node) {
    budget_.Spend(1);
    const Frame frame(this);
    switch (node->kind) {
      case NodeKind::kConst:
        return node->value;
      case NodeKind::kName:
        return Lookup(node->text);
      case NodeKind::kList:
      case NodeKind::kTuple:
        return Value::MakeList(All(node->kids), node->kind == NodeKind::kTuple);
      case NodeKind::kDict: {
        std::vector<std::pair<Value, Value>> members;
        for (size_t i = 0; i < node->kids.size(); i += 2) {
          budget_.Spend(i);
          Value key = Evaluate(node->kids[i]);
          members.emplace_back(std::move(key), Evaluate(node->kids[i + 1]));
        }
        return Value::MakeDict(std::move(members));
      }
      case NodeKind::kAttribute:
        return Attribute(Evaluate(node->kids[0]), node->text);
      case NodeKind::kItem: {
        const Value object = Evaluate(node->kids[0]);
        if (object.IsDict()) budget_.Spend(object.Members().size() / 8);
        if (object.IsString()) budget_.SpendText(object.Text().size());
        return GetItem(object, Evaluate(node->kids[1]));
      }
      case NodeKind::kSlice: {
        const auto bound = [&](size_t i) { return node->kids[i] == nullptr ? Value() : Evaluate(node->kids[i]); };
        const Value object = Evaluate(node->kids[0]);
        const Value start = bound(1), stop = bound(2), step = bound(3);
        return Sliced(budget_, object, start, stop, step);
      }
      case NodeKind::kCall:
        return Call(node);
      case NodeKind::kFilter: {
        const Value input = node->kids[0] == nullptr ? *block_input_ : Evaluate(node->kids[0]);
        return ApplyFilter(budget_, node->text, input, Given(node));
      }
      case NodeKind::kTest: {
        const Value input = Evaluate(node->kids[0]);
        return ApplyTest(budget_, node->text, input, Given(node));
      }
      case NodeKind::kNot:
        return !Evaluate(node->kids[0]).Truthy();
      case NodeKind::kNegate:
      case NodeKind::kPlus:
        return Signed(Evaluate(node->kids[0]), node->kind == NodeKind::kNegate);
      case NodeKind::kBinary: {
        const Value left = Evaluate(node->kids[0]);
        return Binary(node->text, left, Evaluate(node->kids[1]));
      }
      case NodeKind::kConcat: {
        MarkedText text;
        for (const Node* kid : node->kids) {
          text.Append(Evaluate(kid).Str());
          budget_.SpendText(text);
        }
        return text;
      }
      case NodeKind::kAnd:
      case NodeKind::kOr: {
        Value left = Evaluate(node->kids[0]);
        return left.Truthy() == (node->kind == NodeKind::kOr) ? left : Evaluate(node->kids[1]);
      }
      case NodeKind::kCompare:
        return CompareChain(node);
      case NodeKind::kConditional:
        if (Evaluate(node->kids[1]).Truthy()) return Evaluate(node->kids[0]);
        if (node->kids[2] != nullptr) return Evaluate(node->kids[2]);
        return Value::UndefinedNamed("the value of an if without else");
      default:
        TemplateError("line ", node->line, ": not an expression");
    }
  }

  std::vector<Value> All(const Body& nodes) {
    std::vector<Value> values;
    values.reserve(nodes.size());
    for (const Node* node : nodes) values.push_back(Evaluate(node));
    return values;
  }

  Arguments Given(const Node* node) {
    Arguments arguments{All(node->args), {}};
    for (const auto& [name, value] : node->keywords) arguments.keywords.emplace_back(name, Evaluate(value));
    return arguments;
  }

  Value Attribute(const Value& object, const std::string& name) {
    if (object.IsDict()) budget_.Spend(object.Members().size() / 8);
    if (!object.Is<const LoopState*>()) return GetAttribute(object, name);
    const LoopState& loop = *object.As<const LoopState*>();
    const auto size = static_cast<int64_t>(loop.items->size()), index = static_cast<int64_t>(loop.index);
    if (name == "index") return index + 1;
    if (name == "index0") return index;
    if (name == "revindex") return size - index;
    if (name == "revindex0") return size - index - 1;
    if (name == "first") return index == 0;
    if (name == "last") return index + 1 == size;
    if (name == "length") return size;
    if (name == "depth") return int64_t{1};
    if (name == "depth0") return int64_t{0};
    if (name == "previtem" && index > 0) return (*loop.items)[loop.index - 1];
    if (name == "nextitem" && index + 1 < size) return (*loop.items)[loop.index + 1];
    if (name.starts_with("__")) return GetAttribute(object, name);
    return Value::UndefinedNamed(name);
  }

  Value Signed(const Value& value, bool negate) {
    if (!value.IsNumber()) TemplateError("a sign before a ", value.TypeName());
    if (!value.IsInteger()) return negate ? -value.Number() : value.Number();
    return negate ? Integers("-", 0, value.Integer()) : Value(value.Integer());
  }

  Value CompareChain(const Node* node) {
    Value left = Evaluate(node->kids[0]);
    for (size_t i = 0; i < node->operators.size(); ++i) {
      Value right = Evaluate(node->kids[i + 1]);
      const std::string& op = node->operators[i];
      bool holds;
      if (op == "==" || op == "!=") {
        SpendOn(left);
        holds = Equal(left, right) == (op == "==");
      } else if (op == "in" || op == "not in") {
        holds = Contains(budget_, right, left) == (op == "in");
      } else {
        const int order = Compare(left, right);
        holds = op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
      }
      if (!holds) return false;
      left = std::move(right);
    }
    return true;
  }

  void SpendOn(const Value& value) {
    if (value.IsString()) budget_.SpendText(value.Text().size());
    if (value.IsList()) budget_.Spend(value.Items().size());
    if (value.IsDict()) budget_.Spend(value.Members().size());
  }

  [[noreturn]] void NoOperator(const std::string& op, const Value& left, const Value& right) {
    for (const Value* value : {&left, &right}) {
      if (value->IsUndefined()) TemplateError("\"", value->As<Undefined>().name, "\" is undefined");
    }
    TemplateError("no ", op, " between ", left.TypeName(), " and ", right.TypeName());
  }

  Value Integers(std::string_view op, int64_t a, int64_t b) {
    int64_t result = 0;
    bool overflow = false;
    if (op == "+") {
      overflow = __builtin_add_overflow(a, b, &result);
    } else if (op == "-") {
      overflow = __builtin_sub_overflow(a, b, &result);
    } else if (op == "*") {
      overflow = __builtin_mul_overflow(a, b, &result);
    } else if (op == "**") {
      if (b < 0) return std::pow(static_cast<double>(a), static_cast<double>(b));
      result = 1;
      for (int64_t i = 0; i < b && !overflow; ++i) {
        if (a == 0 || a == 1 || a == -1) {  // or the loop would run b times
          result = a == -1 ? (b % 2 != 0 ? -1 : 1) : a;
          break;
        }
        overflow = __builtin_mul_overflow(result, a, &result);
      }
    } else {
      if (b == 0) TemplateError("division by zero");
      if (op == "/") return static_cast<double>(a) / static_cast<double>(b);
      if (b == -1) return op == "%" ? Value(int64_t{0}) : Integers("-", 0, a);
      const int64_t remainder = a % b;
      const bool floor = remainder != 0 && (remainder < 0) != (b < 0);
      result = op == "%" ? remainder + (floor ? b : 0) : a / b - (floor ? 1 : 0);
    }
    if (overflow) TemplateError("an integer overflows");
    return result;
  }

  Value Binary(const std::string& op, const Value& left, const Value& right) {
    if (left.IsInteger() && right.IsInteger()) return Integers(op, left.Integer(), right.Integer());
    if (left.IsNumber() && right.IsNumber()) {
      const double a = left.Number(), b = right.Number();
      if (op == "+") return a + b;
      if (op == "-") return a - b;
      if (op == "*") return a * b;
      if (op == "**") return std::pow(a, b);
      if (b == 0) TemplateError("division by zero");
      if (op == "/") return a / b;
      if (op == "//") return std::floor(a / b);
      const double remainder = std::fmod(a, b);
      return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
    }
    if (op == "+" && left.IsString() && right.IsString()) {
      MarkedText text = left.Marked();
      text.Append(right.Marked());
      budget_.SpendText(text);
      return text;
    }
    if (op == "+" && left.IsList() && right.IsList()) {
      std::vector<Value> items = Iterate(budget_, left);
      const std::vector<Value> more = Iterate(budget_, right);
      items.insert(items.end(), more.begin(), more.end());
      return Value::MakeList(std::move(items), left.As<Value::List>()->tuple);
    }
    if (op == "*" && (left.IsInteger() || right.IsInteger())) {
      const Value& sequence = left.IsInteger() ? right : left;
      const int64_t times = std::max<int64_t>(left.IsInteger() ? left.Integer() : right.Integer(), 0);
      if (sequence.IsString()) {
        const MarkedText& text = sequence.Marked();
        if (times > static_cast<int64_t>(limits_.max_output) ||
            text.size() * static_cast<size_t>(times) > limits_.max_output) {
          TemplateError("a string is repeated ", times, " times");
        }
        budget_.SpendText((text.size() + 64 * text.mark_count()) * static_cast<size_t>(times));
        MarkedText repeated;
        for (int64_t i = 0; i < times; ++i) repeated.Append(text);
        return repeated;
      }
      if (sequence.IsList()) {
        if (times > 1000000) TemplateError("a list is repeated ", times, " times");
        std::vector<Value> items;
        for (int64_t i = 0; i < times; ++i) {
          budget_.Spend(1 + sequence.Items().size());
          items.insert(items.end(), sequence.Items().begin(), sequence.Items().end());
        }
        return Value::MakeList(std::move(items), sequence.As<Value::List>()->tuple);
      }
    }
    NoOperator(op, left, right);
  }

  Value Call(const Node* node) {
    const Node* callee = node->kids[0];
    if (callee->kind == NodeKind::kAttribute) {
      const Value object = Evaluate(callee->kids[0]);
      if (object.Is<const LoopState*>()) return CallLoop(*object.As<const LoopState*>(), callee->text, node);
      const Value method = GetAttribute(object, callee->text);
      if (method.Is<Function>()) return CallMethod(budget_, object, callee->text, Given(node));
      TemplateError("line ", node->line, ": \"", callee->text, "\" of a ", object.TypeName(), " is not callable");
    }
    const Value function = Evaluate(callee);
    if (function.Is<const Macro*>()) return CallMacro(*function.As<const Macro*>(), Given(node));
    if (function.Is<Function>()) return CallFunction(budget_, function.As<Function>().name, Given(node));
    if (function.IsUndefined())
      TemplateError("line ", node->line, ": \"", function.As<Undefined>().name, "\" is undefined");
    TemplateError("line ", node->line, ": a ", function.TypeName(), " is not callable");
  }

  Value CallLoop(const LoopState& loop, const std::string& name, const Node* node) {
    const Arguments arguments = Given(node);
    if (name == "cycle" && !arguments.positional.empty()) {
      return arguments.positional[loop.index % arguments.positional.size()];
    }
    if (name != "changed") TemplateError("line ", node->line, ": loop.", name, " is not callable");
    const bool same = loop.has_changed && loop.changed.size() == arguments.positional.size() &&
                      std::equal(loop.changed.begin(), loop.changed.end(), arguments.positional.begin(), Equal);
    loop.changed = arguments.positional;
    loop.has_changed = true;
    return !same;
  }

  Value CallMacro(const Macro& macro, const Arguments& arguments) {
    const Frame frame(this);
    const Node& node = *macro.node;
    Inner inner(this, macro.scope);
    const size_t count = node.parameters.size();
    if (arguments.positional.size() > count) {
      TemplateError("macro \"", node.text, "\" takes ", count, " arguments, not ", arguments.positional.size());
    }
    for (size_t i = 0; i < count; ++i) {
      const std::string& name = node.parameters[i];
      const size_t defaults_from = count - node.kids.size();
      if (const Value* given = arguments.Get(i, name)) {
        Assign(name, *given);
      } else {
        Assign(name, i >= defaults_from ? Evaluate(node.kids[i - defaults_from]) : Value::UndefinedNamed(name));
      }
    }
    for (const auto& [name, value] : arguments.keywords) {
      if (name == "caller") {
        Assign("caller", value);
      } else if (std::find(node.parameters.begin(), node.parameters.end(), name) == node.parameters.end()) {
        TemplateError("macro \"", node.text, "\" has no parameter \"", name, "\"");
      }
    }
    return Capture(node.bodies[0]);
  }

  // ---- Statements.

  Flow Execute(const Body& body) {
    const Frame frame(this);
    for (const Node* node : body) {
      const Flow flow = ExecuteOne(node);
      if (flow != Flow::kNormal) return flow;
    }
    return Flow::kNormal;
  }

  Flow ExecuteOne(const Node* node) {
    budget_.Spend(1);
    switch (node->kind) {
      case NodeKind::kData:
        Emit(node->text);
        return Flow::kNormal;
      case NodeKind::kPrint:
        Emit(Evaluate(node->kids[0]).Str());
        return Flow::kNormal;
      case NodeKind::kIf:
        for (size_t i = 0; i < node->bodies.size(); ++i) {
          if (i >= node->kids.size() || Evaluate(node->kids[i]).Truthy()) return Execute(node->bodies[i]);
        }
        return Flow::kNormal;
      case NodeKind::kFor:
        return For(node);
      case NodeKind::kSet:
        AssignTarget(node->kids[0], Evaluate(node->kids[1]));
        return Flow::kNormal;
      case NodeKind::kSetBlock:
      case NodeKind::kFilterBlock: {
        const bool set = node->kind == NodeKind::kSetBlock;
        Value text = [&] {
          const Inner inner(this, scope_);
          return Value(Capture(node->bodies[0]));
        }();
        if (const Node* filter = node->kids[set ? 1 : 0]) {
          const Value* outer = std::exchange(block_input_, &text);
          text = Evaluate(filter);
          block_input_ = outer;
        }
        if (set) {
          AssignTarget(node->kids[0], text);
        } else {
          Emit(text.Str());
        }
        return Flow::kNormal;
      }
      case NodeKind::kMacro:
        macros_.push_back({node, scope_});
        Assign(node->text, Value::Storage(&macros_.back()));
        return Flow::kNormal;
      case NodeKind::kCallBlock: {
        const Macro caller{node->kids[1], scope_};
        const Value function = Evaluate(node->kids[0]->kids[0]);
        if (!function.Is<const Macro*>()) TemplateError("line ", node->line, ": call wants a macro");
        Arguments arguments = Given(node->kids[0]);
        arguments.keywords.emplace_back("caller", Value::Storage(&caller));
        Emit(CallMacro(*function.As<const Macro*>(), arguments).Marked());
        return Flow::kNormal;
      }
      case NodeKind::kWith: {
        std::vector<Value> values;
        for (size_t i = 1; i < node->kids.size(); i += 2) values.push_back(Evaluate(node->kids[i]));
        const Inner inner(this, scope_);
        for (size_t i = 0; i < values.size(); ++i) AssignTarget(node->kids[2 * i], values[i]);
        return Execute(node->bodies[0]);
      }
      case NodeKind::kGeneration:
        return Generation(node);
      case NodeKind::kBreak:
        return Flow::kBreak;
      case NodeKind::kContinue:
        return Flow::kContinue;
      default:
        TemplateError("line ", node->line, ": not a statement");
    }
  }

  Flow For(const Node* node) {
    std::vector<Value> items = Iterate(budget_, Evaluate(node->kids[1]));
    if (const Node* condition = node->kids[2]) {
      std::vector<Value> kept;
      for (Value& item : items) {
        const Inner inner(this, scope_);
        AssignTarget(node->kids[0], item);
        if (Evaluate(condition).Truthy()) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty()) return node->bodies.size() > 1 ? Execute(node->bodies[1]) : Flow::kNormal;
    LoopState loop{&items, 0, {}, false};
    for (; loop.index < items.size(); ++loop.index) {
      const Inner inner(this, scope_);
      Assign("loop", Value::Storage(static_cast<const LoopState*>(&loop)));
      AssignTarget(node->kids[0], items[loop.index]);
      if (Execute(node->bodies[0]) == Flow::kBreak) break;
    }
    return Flow::kNormal;
  }

  Budget budget_;
  const RenderLimits& limits_;
  Scope* scope_;
  MarkedText* out_ = nullptr;
  const Value* block_input_ = nullptr;
  std::deque<Macro> macros_;
  int frames_ = 0;
};

}  // namespace

MarkedText Render(const Template& parsed, std::vector<std::pair<std::string, Value>> globals,
                  const RenderLimits& limits) {
  Scope scope;
  for (const char* name : {"range", "namespace", "dict", "raise_exception", "strftime_now"}) {
    scope.names.emplace_back(name, Value::Storage(Function{name}));
  }
  for (auto& [name, value] : globals) scope.names.emplace_back(name, std::move(value));
  Scope top{&scope, {}};
  return Interpreter(limits, &top).Run(parsed.body);
}

}  // namespace cambium::jinja
