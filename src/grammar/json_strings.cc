// Formats and numbers as automata over their characters.
#include "grammar/json_strings.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "cambium/error.h"
#include "grammar/regex.h"

namespace cambium {
namespace {

constexpr size_t kMostDigits = 40;  // of a bound

// Years from 1000 on; days that the month has.
const std::string kDate =
    "(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    "02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|[2468][048]00|[13579][26]00)-02-29)";
const std::string kTime =
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
// Shorter than what is allowed: labels of 41 characters, 6 of them.
const std::string kLabel = "[A-Za-z0-9]{1,20}(?:-[A-Za-z0-9]{1,20})?";
const std::string kHost = kLabel + "(?:\\." + kLabel + "){0,5}";
const std::string kByte = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const std::string kIpv4 = kByte + "(?:\\." + kByte + "){3}";
const std::string kPath = "[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}";

std::string Ipv6() {
  const std::string group = "[0-9A-Fa-f]{1,4}";
  std::string all = "(?:" + group + ":){7}" + group + "|::|::" + group + "(?::" + group + "){0,6}";
  for (int before = 1; before <= 7; ++before) {
    all += "|(?:" + group + ":){" + std::to_string(before) + "}(?::";
    const int behind = 7 - before;  // at most, beside the "::"
    if (behind == 0) {
      all += ")";
    } else {
      all += "|(?::" + group + "){1," + std::to_string(behind) + "})";
    }
  }
  return all;
}

const std::map<std::string, std::string>& Formats() {
  static const std::map<std::string, std::string> kFormats = {
      {"date", kDate},
      {"time", kTime},
      {"date-time", kDate + "T" + kTime},
      {"duration",
       "P(?:[0-9]+W|(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
       "(?:T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))?|"
       "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))"},
      {"email", "[A-Za-z0-9_+-]{1,20}(?:\\.[A-Za-z0-9_+-]{1,20}){0,2}@" + kHost},
      {"idn-email", "[A-Za-z0-9_+-]{1,20}(?:\\.[A-Za-z0-9_+-]{1,20}){0,2}@" + kHost},
      {"hostname", kHost},
      {"idn-hostname", kHost},
      {"ipv4", kIpv4},
      {"ipv6", Ipv6()},
      {"uuid", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"},
      {"uri", "(?:https?|ftp)://" + kHost + "(?::[0-9]{1,5})?(?:/(?:" + kPath + ")*)*(?:\\?(?:" + kPath + "|[/?])*)?" +
                  "(?:#(?:" + kPath + "|[/?])*)?|(?:mailto|urn|tel|data):(?:" + kPath + "|/)+"},
      {"uri-reference", "(?:https?://" + kHost + ")?(?:(?:/(?:" + kPath + ")+)+/?|/)(?:\\?(?:" + kPath + "|[/?])*)?" +
                            "(?:#(?:" + kPath + "|[/?])*)?"},
      {"regex", "[A-Za-z0-9 _-]*"},
      {"json-pointer", "(?:/(?:[^~/\\u{0}-\\u{1f}]|~[01])*)*"},
      {"relative-json-pointer", "(?:0|[1-9][0-9]{0,8})(?:#|(?:/(?:[^~/\\u{0}-\\u{1f}]|~[01])*)*)"},
      {"byte", "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"},
  };
  return kFormats;
}

struct Digits {
  bool negative;
  std::string whole, fraction;  // without zeros in front, and at the end
  bool zero() const { return whole == "0" && fraction.empty(); }
};

Digits Split(std::string decimal) {
  Digits d{decimal[0] == '-', {}, {}};
  if (d.negative) decimal.erase(0, 1);
  const size_t point = decimal.find('.');
  d.whole = decimal.substr(0, point);
  if (point != std::string::npos) d.fraction = decimal.substr(point + 1);
  while (!d.fraction.empty() && d.fraction.back() == '0') d.fraction.pop_back();
  d.whole.erase(0, std::min(d.whole.find_first_not_of('0'), d.whole.size() - 1));
  return d;
}

const std::string kAnyFraction = "(?:\\.[0-9]+)?";
const std::string kUnsigned = "(?:0|[1-9][0-9]*)" + kAnyFraction;

std::string Any(int64_t count) { return "[0-9]{" + std::to_string(count) + "}"; }
std::string Range(char lo, char hi) { return std::string("[") + lo + "-" + hi + "]"; }

// Unsigned decimals that are at least d, or above it.
std::string AtLeast(const Digits& d, bool above) {
  const int64_t n = std::ssize(d.whole);
  std::string all = "[1-9][0-9]{" + std::to_string(n) + ",}" + kAnyFraction;
  for (int64_t i = 0; i < n; ++i) {
    const char digit = d.whole[static_cast<size_t>(i)];
    if (digit == '9') continue;
    all += "|" + d.whole.substr(0, static_cast<size_t>(i)) + Range(static_cast<char>(digit + 1), '9') + Any(n - 1 - i) +
           kAnyFraction;
  }
  if (d.fraction.empty()) return all + "|" + d.whole + (above ? "\\.0*[1-9][0-9]*" : kAnyFraction);
  all += "|" + d.whole + "\\.(?:" + d.fraction + (above ? "0*[1-9][0-9]*" : "[0-9]*");
  for (size_t j = 0; j < d.fraction.size(); ++j) {
    if (d.fraction[j] == '9') continue;
    all += "|" + d.fraction.substr(0, j) + Range(static_cast<char>(d.fraction[j] + 1), '9') + "[0-9]*";
  }
  return all + ")";
}

// Unsigned decimals that are at most d, or below it; empty: none.
std::string AtMost(const Digits& d, bool below) {
  const int64_t n = std::ssize(d.whole);
  std::string all;
  if (n > 1) all += "|(?:0|[1-9][0-9]{0," + std::to_string(n - 2) + "})" + kAnyFraction;
  for (int64_t i = 0; i < n; ++i) {
    const char lowest = i == 0 && n > 1 ? '1' : '0', digit = d.whole[static_cast<size_t>(i)];
    if (digit <= lowest) continue;
    all += "|" + d.whole.substr(0, static_cast<size_t>(i)) + Range(lowest, static_cast<char>(digit - 1)) +
           Any(n - 1 - i) + kAnyFraction;
  }
  if (d.fraction.empty()) {
    if (!below) all += "|" + d.whole + "(?:\\.0+)?";
  } else {
    std::string behind;
    if (!below) behind += "|" + d.fraction + "0*";
    for (size_t j = 0; j < d.fraction.size(); ++j) {
      if (j > 0) behind += "|" + d.fraction.substr(0, j);
      if (d.fraction[j] > '0') {
        behind += "|" + d.fraction.substr(0, j) + Range('0', static_cast<char>(d.fraction[j] - 1)) + "[0-9]*";
      }
    }
    all += "|" + d.whole + (behind.empty() ? "" : "(?:\\.(?:" + behind.substr(1) + "))?");
  }
  return all.empty() ? all : all.substr(1);
}

std::string Within(const NumberBounds::Bound& bound, bool low) {
  const Digits d = Split(bound.decimal);
  const std::string positive_zero = bound.exclusive ? "" : "|0(?:\\.0+)?";
  const Digits zero{false, "0", {}};
  if (d.zero()) {
    const std::string beyond = std::string("(?:").append(AtLeast(zero, true)).append(")");
    return std::string(low ? "" : "-").append(beyond).append(positive_zero);
  }
  std::string all = d.negative == low ? AtMost(d, bound.exclusive) : AtLeast(d, bound.exclusive);
  if (d.negative) {
    if (!all.empty()) all = std::string("-(?:").append(all).append(")");
    if (low) all += (all.empty() ? "" : "|") + kUnsigned;
    return all;
  }
  return low ? all : all + (all.empty() ? "" : "|") + "-" + kUnsigned;
}

constexpr int64_t kMostRemainders = 20'000;

// Numbers of at most `places` digits behind the point that are multiples of `divisor` in units of the last of them.
CharDfa Multiples(int64_t divisor, int64_t places) {
  // States: 0 begins, 1 behind the sign, 2 behind a single zero; then, for each count of digits behind the point, one a
  // remainder. The first of these rows is of numbers that do not begin with a zero.
  std::vector<CharDfa::State> states(static_cast<size_t>(3 + divisor * (places + 1)));
  const auto at = [&](int64_t behind, int64_t remainder) {
    return static_cast<int32_t>(3 + behind * divisor + remainder);
  };
  const auto digits = [&](int32_t from, int64_t behind, int64_t remainder, uint32_t first) {
    for (uint32_t digit = first; digit < 10; ++digit) {
      const int64_t next = (remainder * 10 + digit) % divisor;
      states[static_cast<size_t>(from)].edges.push_back({'0' + digit, '0' + digit, at(behind, next)});
    }
  };
  std::vector<int64_t> scale(static_cast<size_t>(places) + 1, 1 % divisor);  // of what is not written
  for (int64_t k = places - 1; k >= 0; --k)
    scale[static_cast<size_t>(k)] = scale[static_cast<size_t>(k) + 1] * 10 % divisor;
  states[0].edges = {{'-', '-', 1}, {'0', '0', 2}};
  states[2].accepts = true;
  digits(0, 0, 0, 1);
  digits(1, 0, 0, 1);
  // The point comes before the digits: edges are sorted. It leads to a state of its own, which does not accept.
  std::vector<CharDfa::State> points;
  const auto point = [&](int32_t from, int64_t remainder) {
    if (places == 0) return;
    const auto behind = static_cast<int32_t>(states.size() + points.size());
    states[static_cast<size_t>(from)].edges.push_back({'.', '.', behind});
    CharDfa::State& state = points.emplace_back();
    for (uint32_t digit = 0; digit < 10; ++digit) {
      state.edges.push_back({'0' + digit, '0' + digit, at(1, (remainder * 10 + digit) % divisor)});
    }
  };
  point(2, 0);
  for (int64_t k = 0; k <= places; ++k) {
    for (int64_t r = 0; r < divisor; ++r) {
      states[static_cast<size_t>(at(k, r))].accepts = r * scale[static_cast<size_t>(k)] % divisor == 0;
      if (k == 0) point(at(k, r), r);
      if (k == 0 || k < places) digits(at(k, r), k == 0 ? 0 : k + 1, r, 0);
    }
  }
  states.insert(states.end(), std::make_move_iterator(points.begin()), std::make_move_iterator(points.end()));
  return CharDfa(std::move(states));
}

}  // namespace

CharDfa FormatOf(const SchemaJson& format, const SchemaDocument& document, CompileBudget& budget) {
  if (!format.is_string()) document.Wrong("\"format\" is " + format.dump().substr(0, 60) + ", expected a name");
  const auto& name = format.get_ref<const std::string&>();
  if (name == "password" || name == "binary") return CharDfa::Any();  // how it is shown
  // What is written for a URI is an IRI and a template of one too.
  static const std::map<std::string, std::string> kSame = {
      {"iri", "uri"}, {"iri-reference", "uri-reference"}, {"uri-template", "uri-reference"}};
  const auto same = kSame.find(name);
  const auto found = Formats().find(same != kSame.end() ? same->second : name);
  if (found == Formats().end()) {
    document.Unsupported("format", "with the value \"" + name.substr(0, 60) + "\"");
  }
  return CompileRegex(found->second, RegexMatch::kWhole, "format " + name, budget);
}

std::string Decimal(const SchemaJson& number, const char* keyword, const SchemaDocument& document) {
  if (!number.is_number()) {
    document.Wrong(std::string("\"") + keyword + "\" is " + number.dump().substr(0, 60) + ", expected a number");
  }
  std::string text;
  if (number.is_number_float()) {
    char digits[1100];
    const auto end = std::to_chars(digits, digits + sizeof digits, number.get<double>(), std::chars_format::fixed).ptr;
    text.assign(digits, end);
  } else {
    text = number.dump();
  }
  if (text.size() > kMostDigits) {
    document.Unsupported(keyword, "with more than " + std::to_string(kMostDigits) + " digits");
  }
  return text;
}

CharDfa NumbersWithin(const NumberBounds& bounds, const SchemaDocument& document, CompileBudget& budget) {
  // Digits are limited, so that every number ends: 16 is what a double holds.
  size_t digits = 16;
  bool bounded = false;
  for (const auto* side : {&bounds.low, &bounds.high}) {
    for (const NumberBounds::Bound& bound : *side) {
      digits = std::max(digits, Split(bound.decimal).whole.size() + 1);
      bounded = true;
    }
  }
  const std::string most = std::to_string(digits - 1);
  std::string base = "-?(?:0|[1-9][0-9]{0," + most + "})";
  if (!bounds.whole) base += "(?:\\.[0-9]{1,16})?";
  if (!bounds.whole && !bounded && bounds.multiples.empty()) base += "(?:[eE][+-]?[0-9]{1,2})?";
  const auto compile = [&](const std::string& regex) {
    return CompileRegex(regex, RegexMatch::kWhole, document.what(), budget);
  };
  CharDfa all = compile(base);
  if (bounds.fraction) all = all.And(compile("-?[0-9]+\\.[0-9]*[1-9]"), budget);
  for (const NumberBounds::Bound& bound : bounds.low) all = all.And(compile(Within(bound, true)), budget);
  for (const NumberBounds::Bound& bound : bounds.high) {
    const std::string regex = Within(bound, false);
    all = all.And(regex.empty() ? CharDfa() : compile(regex), budget);
  }
  for (const SchemaJson& multiple : bounds.multiples) {
    if (!multiple.is_number() || !(multiple.get<double>() > 0)) document.Wrong("\"multipleOf\" is no number above 0");
    const std::string text = Decimal(multiple, "multipleOf", document);
    const Digits d = Split(text);
    const std::string units = d.whole + d.fraction;
    const auto places = std::ssize(d.fraction);
    const int64_t divisor = units.size() <= 15 ? std::stoll(units) : kMostRemainders;
    if (divisor * (places + 1) >= kMostRemainders) document.Unsupported("multipleOf", "with the value " + text);
    all = all.And(Multiples(divisor, places), budget);
  }
  if (!bounds.excluded.empty()) {
    // Other spellings of an excluded number would be that number too.
    if (!bounds.whole) all = all.And(compile("-?(?:0|[1-9][0-9]*)(?:\\.[0-9]*[1-9])?"), budget);
    all = all.Without(CharDfa::OneOf(bounds.excluded), budget);
  }
  return all;
}

}  // namespace cambium
