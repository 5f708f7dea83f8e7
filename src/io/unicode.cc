#include "io/unicode.h"

#include <utf8proc.h>

#include <algorithm>

namespace cambium {
namespace {

constexpr int kMaxMarks = 64;

// Bytes of the longest prefix of [at, end) that could still become one code point, and whether it is one already.
// Table 3-7 of the Unicode standard.
struct Prefix {
  int length;
  bool complete;
};

Prefix ScanUtf8(const char* at, const char* end) {
  const auto byte = [&](int i) { return static_cast<unsigned char>(at[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {1, true};
  int length;
  unsigned char low = 0x80, high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return {0, false};
  }
  int i = 1;
  for (; i < length && at + i < end; ++i) {
    if (byte(i) < low || byte(i) > high) return {i, false};
    low = 0x80, high = 0xBF;
  }
  return {i, i == length};
}

utf8proc_category_t Category(uint32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

template <class F>
std::string MapCodePoints(std::string_view text, F f) {
  std::string out;
  out.reserve(text.size());
  const char* end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    const CodePoint c = DecodeUtf8(at, end);
    if (c.valid) {
      f(out, c.value);
    } else {
      out += *at;
    }
    at += c.length;
  }
  return out;
}

}  // namespace

const CharClass kAsciiClass[128] = {
#define O CharClass::kOther
#define L CharClass::kLetter
#define N CharClass::kNumber
#define S CharClass::kSpace
    O, O, O, O, O, O, O, O, O, S, S, S, S, S, O, O,  // \t \n \v \f \r
    O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,  //
    S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,  // space
    N, N, N, N, N, N, N, N, N, N, O, O, O, O, O, O,  //
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,  //
    L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,  //
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,  //
    L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
#undef O
#undef L
#undef N
#undef S
};

CharClass ClassOfMultibyte(uint32_t c) {
  switch (Category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::kNumber;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharClass::kSpace;
    default:
      return c == 0x85 ? CharClass::kSpace : CharClass::kOther;
  }
}

bool IsWordCharacter(uint32_t c) {
  switch (Category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // U+200C and U+200D join; the rest are circled and squared letters, alphabetic symbols
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  }
}

CodePoint DecodeUtf8Multibyte(const char* at, const char* end) {
  const Prefix prefix = ScanUtf8(at, end);
  const auto byte = [&](int i) { return static_cast<uint32_t>(static_cast<unsigned char>(at[i])); };
  if (!prefix.complete) return {byte(0), 1, false};
  switch (prefix.length) {
    case 1:
      return {byte(0), 1, true};
    case 2:
      return {(byte(0) & 0x1F) << 6 | (byte(1) & 0x3F), 2, true};
    case 3:
      return {(byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3, true};
    default:
      return {(byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4, true};
  }
}

void AppendUtf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

bool IsValidUtf8(std::string_view text) {
  const char* end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    const CodePoint c = DecodeUtf8(at, end);
    if (!c.valid) return false;
    at += c.length;
  }
  return true;
}

size_t CountCodePoints(std::string_view text) {
  size_t count = 0;
  const char* end = text.data() + text.size();
  for (const char* at = text.data(); at < end; at += DecodeUtf8(at, end).length) ++count;
  return count;
}

std::string NormalizeNfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const char* end = text.data() + text.size();
  const char* flushed = text.data();
  // A piece starts at a code point that nothing before it can combine with: ASCII is enough of that.
  const auto flush = [&](const char* upto, bool normalise) {
    const std::string_view piece(flushed, upto - flushed);
    flushed = upto;
    utf8proc_uint8_t* result = nullptr;
    const utf8proc_ssize_t length =
        normalise ? utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(piece.data()), piece.size(), &result,
                                 static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE))
                  : -1;
    if (length >= 0) {
      out.append(reinterpret_cast<const char*>(result), length);
    } else {
      out.append(piece);
    }
    std::free(result);
  };
  int marks = 0;
  bool clean = true;
  for (const char* at = text.data(); at < end;) {
    const CodePoint c = DecodeUtf8(at, end);
    if (c.valid && c.value < 0x80) {
      if (at - flushed > 1) flush(at, clean);
      marks = 0, clean = true;
    } else if (!c.valid) {
      flush(at, clean);
      ++at;
      flush(at, false);
      marks = 0, clean = true;
      continue;
    } else if (utf8proc_get_property(c.value)->combining_class != 0) {
      if (++marks > kMaxMarks) clean = false;
    } else {
      if (!clean) flush(at, false);
      marks = 0, clean = true;
    }
    at += c.length;
  }
  flush(end, clean);
  return out;
}

std::string ToUpper(std::string_view text) {
  return MapCodePoints(text, [](std::string& out, uint32_t c) {
    if (c == 0xDF) {
      out += "SS";
    } else {
      AppendUtf8(out, utf8proc_toupper(c));
    }
  });
}

std::string ToLower(std::string_view text) {
  return MapCodePoints(text, [](std::string& out, uint32_t c) {
    AppendUtf8(out, c == 0x130 ? 'i' : utf8proc_tolower(c));
    if (c == 0x130) AppendUtf8(out, 0x307);  // the one letter whose lower case is longer
  });
}

std::string ToTitle(std::string_view text) {
  bool inside = false;
  return MapCodePoints(text, [&](std::string& out, uint32_t c) {
    const utf8proc_category_t category = Category(c);
    const bool cased =
        category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL || category == UTF8PROC_CATEGORY_LT;
    AppendUtf8(out, inside ? utf8proc_tolower(c) : utf8proc_totitle(c));
    inside = cased;
  });
}

std::string Utf8Stream::Push(std::string_view bytes) {
  std::string input = std::move(pending_);
  pending_.clear();
  input.append(bytes);
  std::string out;
  out.reserve(input.size());
  const char* end = input.data() + input.size();
  for (const char* at = input.data(); at < end;) {
    const Prefix prefix = ScanUtf8(at, end);
    if (prefix.complete) {
      out.append(at, prefix.length);
    } else if (prefix.length > 0 && at + prefix.length == end) {
      pending_.assign(at, end);
      break;
    } else {
      out += "\xEF\xBF\xBD";
    }
    at += std::max(prefix.length, 1);
  }
  return out;
}

std::string Utf8Stream::Finish() {
  const bool broken = !pending_.empty();
  pending_.clear();
  return broken ? "\xEF\xBF\xBD" : "";
}

}  // namespace cambium
