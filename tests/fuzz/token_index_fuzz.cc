// A corpus index. Its checksum is made right, or nothing behind it would ever be read.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "cambium/error.h"
#include "fuzz_folder.h"
#include "io/token_index.h"
#include "tiny_tokenizer.h"

namespace {

using namespace cambium;

// What drafting asks of an index that was accepted.
void Read(const std::string& path, const Tokenizer& tokenizer) {
  const TokenIndex index(path);
  index.CheckVocabulary(tokenizer);
  index.CheckTokens(tokenizer.vocab_size());
  const std::span<const int32_t> tokens = index.tokens();
  for (const size_t length : {size_t{1}, size_t{3}, tokens.size() / 2, tokens.size()}) {
    const TokenIndex::Match match =
        index.LongestSuffix(tokens.first(std::min(length, tokens.size())), TokenIndex::kOrdered);
    if (match.length == 0) continue;
    for (const int64_t place : index.Places(match, 4)) {
      if (index.TokenAt(place) < -1 || index.TokenAt(place) >= tokenizer.vocab_size()) __builtin_trap();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const FuzzFolder folder;
  static const Tokenizer tokenizer = TinyTokenizer();
  constexpr size_t kChecksumAt = 16, kChecked = 24;
  std::string bytes(reinterpret_cast<const char*>(data), size);
  for (const bool mended : {false, true}) {
    if (mended && size >= kChecked) {
      const uint64_t checksum =
          TokenIndexChecksum({reinterpret_cast<const uint8_t*>(bytes.data()) + kChecked, size - kChecked});
      std::memcpy(bytes.data() + kChecksumAt, &checksum, sizeof(checksum));
    }
    try {
      Read(folder.Write("index", bytes), tokenizer);
    } catch (const Error&) {
    }
  }
  return 0;
}
