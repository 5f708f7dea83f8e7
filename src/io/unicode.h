#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cambium {

// One step of decoding. An invalid byte (overlong, surrogate, beyond U+10FFFF, truncated) is a code point of its own:
// `value` is the byte, `length` 1, `valid` false.
struct CodePoint {
  uint32_t value;
  int length;  // bytes
  bool valid;
};

CodePoint DecodeUtf8Multibyte(const char* at, const char* end);

// Decodes the code point at `at` < `end`.
inline CodePoint DecodeUtf8(const char* at, const char* end) {
  const auto first = static_cast<unsigned char>(*at);
  if (first < 0x80) return {first, 1, true};
  return DecodeUtf8Multibyte(at, end);
}

void AppendUtf8(std::string& out, uint32_t code_point);
bool IsValidUtf8(std::string_view text);
size_t CountCodePoints(std::string_view text);

// The classes that pre-tokenisers tell apart: \p{L}, \p{N}, White_Space, the rest.
enum class CharClass : uint8_t { kOther, kLetter, kNumber, kSpace };
CharClass ClassOfMultibyte(uint32_t code_point);
extern const CharClass kAsciiClass[128];
inline CharClass ClassOf(uint32_t code_point) {
  return code_point < 128 ? kAsciiClass[code_point] : ClassOfMultibyte(code_point);
}
bool IsWordCharacter(uint32_t code_point);  // \w: letters, marks, decimal digits, connectors and joiners
inline CharClass ClassOf(CodePoint c) { return c.valid ? ClassOf(c.value) : CharClass::kOther; }

// Normalisation form C. Invalid bytes and runs of more than 64 combining marks are left as they are, which keeps the
// time linear (the Stream-Safe limit of UAX #15 is 30).
std::string NormalizeNfc(std::string_view text);

// Simple case mapping of the whole text, and Python's str.title.
std::string ToUpper(std::string_view text);
std::string ToLower(std::string_view text);
std::string ToTitle(std::string_view text);

// Turns a stream of bytes into valid UTF-8: a code point comes out only when it is complete, and each maximal invalid
// part becomes one U+FFFD (Unicode 15, section 3.9).
class Utf8Stream {
 public:
  std::string Push(std::string_view bytes);  // what is complete by now
  std::string Finish();                      // what was left incomplete

 private:
  std::string pending_;  // at most 3 bytes: the valid beginning of a code point
};

}  // namespace cambium
