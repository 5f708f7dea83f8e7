// A chat template, rendered with one conversation.
#include <cstddef>
#include <cstdint>
#include <string>

#include "cambium/error.h"
#include "io/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto messages = nlohmann::ordered_json::array(
      {{{"role", "system"}, {"content", "s"}}, {{"role", "user"}, {"content", "h\u00e9 1"}}});
  try {
    const cambium::ChatTemplate chat(std::string(reinterpret_cast<const char*>(data), size));
    chat.Render(messages, true, {{"bos_token", "<s>"}});
  } catch (const cambium::Error&) {
  }
  return 0;
}
