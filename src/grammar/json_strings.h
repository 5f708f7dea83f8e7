#pragma once

#include <string>

#include "grammar/json_schema_document.h"

namespace cambium {

// The strings of a format; kUsage naming one that is not supported.
CharDfa FormatOf(const SchemaJson& format, const SchemaDocument& document, CompileBudget& budget);

// What bounds a number.
struct NumberBounds {
  struct Bound {
    std::string decimal = {};  // "-12.5"; empty: none
    bool exclusive = false;
  };
  bool whole = false, fraction = false;  // it is whole; it is not
  std::vector<Bound> low = {}, high = {};
  std::vector<SchemaJson> multiples = {};
  std::vector<std::string> excluded = {};  // as they would be written
};
// A JSON number's digits without an exponent; kUsage where they are too many.
std::string Decimal(const SchemaJson& number, const char* keyword, const SchemaDocument& document);
CharDfa NumbersWithin(const NumberBounds& bounds, const SchemaDocument& document, CompileBudget& budget);

}  // namespace cambium
