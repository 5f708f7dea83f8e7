// A tokenizer.json, and after its first NUL a text to encode with it.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "cambium/error.h"
#include "io/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find('\0');
  try {
    const auto tokenizer = cambium::Tokenizer::FromJson(input.substr(0, cut), "", "", "fuzz");
    const std::string_view text = cut == input.npos ? "a b  1\n" : input.substr(cut + 1);
    tokenizer.Decode(tokenizer.Encode(text, true, true));
    tokenizer.Decode(tokenizer.Encode(text, false, false));
  } catch (const cambium::Error&) {
  }
  return 0;
}
