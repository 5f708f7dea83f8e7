#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

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
  explicit ChatTemplate(const std::string& source);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // `messages` is a list of {"role", "content", ...}. `extra` holds more variables: bos_token, eos_token, tools,
  // documents, enable_thinking, ... An object given as ordered_json prints its keys in their order.
  std::string Render(const nlohmann::ordered_json& messages, bool add_generation_prompt,
                     const nlohmann::ordered_json& extra = nlohmann::ordered_json::object()) const;

 private:
  struct Parsed;
  std::unique_ptr<Parsed> parsed_;
};

}  // namespace cambium
