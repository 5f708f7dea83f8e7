#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "io/marked_text.h"

namespace cambium {

// A model's chat template: a Jinja template that turns a conversation into the text of a prompt. It runs a subset of
// jinja2 3.1 as transformers configures it (trim_blocks, lstrip_blocks, loop controls, tojson that keeps non-ASCII,
// raise_exception, strftime_now, {% generation %}), byte for byte. Left out: inheritance, include, import, autoescape,
// recursive loops, argument unpacking, mutating methods, and every attribute that is not data.
//
// Templates come from files, so steps and output are limited; what a template does wrong is kData. What it refuses
// with raise_exception is kUsage.
class ChatTemplate {
 public:
  using Json = nlohmann::ordered_json;

  explicit ChatTemplate(const std::string& source);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // `messages` is a list of {"role", "content", ...}. `extra` holds more variables: tools, documents, enable_thinking,
  // ... An object given as ordered_json prints its keys in their order. Every byte that comes from these two is marked,
  // with its message's index where it is the message's own words. `own` holds variables that count as the template's
  // own text: bos_token, eos_token, ...
  MarkedText Render(const Json& messages, bool add_generation_prompt, const Json& extra = Json::object(),
                    const Json& own = Json::object()) const;

  // Whether the template looks at a variable, an attribute or a key of this name anywhere.
  bool Reads(std::string_view name) const;

 private:
  struct Parsed;
  std::unique_ptr<Parsed> parsed_;
};

}  // namespace cambium
