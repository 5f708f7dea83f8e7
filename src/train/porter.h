#pragma once

#include <string>
#include <string_view>

namespace cambium {

// The stem of a lower-case word (Porter, "An algorithm for suffix stripping", 1980) with NLTK's extensions, which
// rouge-score uses: irregular forms, -ies and -ied of short words, y behind a consonant.
std::string PorterStem(std::string_view word);

}  // namespace cambium
