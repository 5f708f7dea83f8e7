#define PCRE2_CODE_UNIT_WIDTH 8
#include "io/pretokenizer_regex.h"

#include <pcre2.h>

#include <chrono>

#include "cambium/error.h"

namespace cambium {
namespace {

constexpr uint32_t kMatchLimit = 2'000'000;  // backtracks in one match
constexpr uint32_t kHeapLimitKib = 64 << 10;
constexpr size_t kJitStackStart = 64 << 10;
constexpr size_t kJitStackMax = size_t{64} << 20;
constexpr auto kTimeBase = std::chrono::seconds(2);
constexpr auto kTimePerByte = std::chrono::microseconds(2);

}  // namespace

struct SplitRegex::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

namespace {

// Scratch of one Cut: PCRE2 needs it per thread.
struct MatchState {
  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
  explicit MatchState(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr)) {
    if (data == nullptr || context == nullptr) Fail(ErrorCode::kResource, "tokenizer: no memory to match a pattern");
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~MatchState() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

std::string ErrorText(int code) {
  unsigned char text[160] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

SplitRegex::SplitRegex(const SplitStep& step)
    : code_(std::make_unique<Code>()), pattern_(step.pattern.substr(0, 200)), drop_gaps_(step.drop_gaps) {
  constexpr size_t kMaxPattern = 64 << 10;
  if (step.pattern.empty() || step.pattern.size() > kMaxPattern) {
    Fail(ErrorCode::kData, "tokenizer: a pre-tokeniser pattern of ", step.pattern.size(), " bytes");
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  // \C would split a code point; verbs such as (*LIMIT_MATCH=) can only lower our limits.
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(step.pattern.data()), step.pattern.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C, &error,
                              &offset, nullptr);
  if (code_->code == nullptr) {
    Fail(ErrorCode::kData, "tokenizer: pre-tokeniser pattern \"", pattern_, "\" at offset ", offset, ": ",
         ErrorText(error));
  }
  pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE);  // without JIT the interpreter matches
}

SplitRegex::~SplitRegex() = default;

void SplitRegex::Cut(std::string_view text, const std::vector<Span>& pieces, std::vector<Span>& out) const {
  MatchState state(code_->code);
  const auto deadline = std::chrono::steady_clock::now() + kTimeBase + kTimePerByte * text.size();
  int until_clock = 0;
  for (const Span piece : pieces) {
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data() + piece.begin);
    const size_t size = piece.end - piece.begin;
    size_t at = 0, kept = 0;
    while (at < size) {
      if (--until_clock <= 0) {
        until_clock = 64;
        if (std::chrono::steady_clock::now() > deadline) {
          Fail(ErrorCode::kData, "tokenizer: pre-tokeniser pattern \"", pattern_, "\" takes too long on ", text.size(),
               " bytes of text");
        }
      }
      const int found = pcre2_match(code_->code, subject, size, at, PCRE2_NOTEMPTY, state.data, state.context);
      if (found == PCRE2_ERROR_NOMATCH) break;
      if (found < 0) {
        Fail(ErrorCode::kData, "tokenizer: pre-tokeniser pattern \"", pattern_, "\" on ", size,
             " bytes of text: ", ErrorText(found));
      }
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(state.data);
      const size_t begin = ends[0], end = ends[1];
      if (begin < at || end <= begin) break;  // \K may turn a match around
      if (begin > kept && !drop_gaps_) {
        out.push_back({static_cast<uint32_t>(piece.begin + kept), static_cast<uint32_t>(piece.begin + begin)});
      }
      out.push_back({static_cast<uint32_t>(piece.begin + begin), static_cast<uint32_t>(piece.begin + end)});
      at = kept = end;
    }
    if (kept < size && !drop_gaps_) {
      out.push_back({static_cast<uint32_t>(piece.begin + kept), piece.end});
    }
  }
}

}  // namespace cambium
