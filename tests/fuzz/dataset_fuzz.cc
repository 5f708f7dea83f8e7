// Lines of training data. The first byte chooses how they are read.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "cambium/error.h"
#include "fuzz_folder.h"
#include "io/json_lines.h"
#include "tiny_tokenizer.h"
#include "train/dataset.h"
#include "train/example.h"

namespace {

using namespace cambium;

// ChatML that also reads tools, calls and documents.
const std::string kToolsToo =
    "{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
    "{% for d in documents %}{{ d | tojson }}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m.content %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

void CheckExample(const Example& example, const Tokenizer& tokenizer) {
  if (example.ids.size() != example.trained.size()) __builtin_trap();
  for (const int32_t id : example.ids) {
    if (id < 0 || id >= tokenizer.vocab_size()) __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const FuzzFolder folder;
  static const Tokenizer with_template = TinyTokenizer(kToolsToo), without = TinyTokenizer("");
  static constexpr const char* kFormats[] = {"auto",   "chat",     "completions", "text",
                                             "alpaca", "sharegpt", "ids",         "plain"};
  if (size == 0) return 0;
  const uint8_t choice = data[0];
  const Tokenizer& tokenizer = (choice & 8) == 0 ? with_template : without;
  DatasetOptions options;
  options.format = kFormats[choice & 7];
  options.skip_bad = true;
  options.max_tokens = 64;
  options.prompts = (choice & 16) != 0;
  options.train_on_prompt = (choice & 32) != 0;
  options.use_template = (choice & 64) == 0;
  try {
    const std::string path = folder.Write("data.jsonl", {reinterpret_cast<const char*>(data) + 1, size - 1});
    for (const Example& example : LoadDataset(path, tokenizer, options).examples) CheckExample(example, tokenizer);
  } catch (const Error&) {
  }
  return 0;
}
