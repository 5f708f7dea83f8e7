#pragma once

#include <span>
#include <string>
#include <string_view>

namespace cambium {

// Of the words, the one that takes the fewest keys to be typed as `word`: letters left out, added, changed, or in each
// other's place, each counted once. The first of equals; empty where none is within half of the word's letters.
std::string Nearest(std::string_view word, std::span<const std::string> words);
// ", the nearest is WORD", or nothing.
std::string NearestHint(std::string_view word, std::span<const std::string> words);

}  // namespace cambium
