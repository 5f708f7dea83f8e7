#include "cli/help.h"

#include <algorithm>
#include <iterator>
#include <sstream>
#include <string_view>

#include "grafts/grafts.h"

namespace cambium::cli {
namespace {

struct Group {
  const char* name;
  const char* members;  // words
};

constexpr Group kVerbGroups[] = {
    {"Use a model", "generate run serve"},    {"Adapt a model", "train plan merge extract prefix"},
    {"Measure", "tokenize score eval bench"}, {"Files of models", "pull list rm inspect convert quantize"},
    {"Texts", "corpus search window"},        {"The program", "version man completion"}};

constexpr Group kTrainGroups[] = {
    {"Model and data",
     "model data valid valid-split format seq-len train-on-prompt raw ignore-fields skip-bad threads"},
    {"What is trained", "graft init-from"},
    {"LoRA", "rank alpha rslora dora pissa rank-pattern alpha-pattern dropout targets"},
    {"Prefix and prompt", "length prefix-init init-text prefix-mlp"},
    {"Adapter", "variant reduction activation adapter-init"},
    {"Draft heads",
     "heads own-heads parallel layer draft-vocab labels feature-weight distill distill-tokens distill-temp heads-lr "
     "cache-gb with-graft with-heads mtp-weight joint joint-weight refresh-heads"},
    {"Steps",
     "batch-size pack accumulate steps epochs lr schedule warmup weight-decay clip adam-8bit precision "
     "checkpoint-activations seed no-shuffle"},
    {"The run and its files",
     "output config print-config eval-every patience save-every keep resume yes numerics-report json quiet"}};

constexpr Group kGroups[] = {
    {"Model", "model threads ctx-size exact kv-type graft"},
    {"Text", "prompt text file ids special chat tools system-prompt"},
    {"Drawing",
     "seed temp top-k top-p min-p repeat-penalty repeat-last-n presence-penalty frequency-penalty logit-bias"},
    {"Where the answer ends", "predict stop min-tokens ignore-eos loop-guard"},
    {"What the answer must be", "json-schema json-schema-file regex grammar grammar-file"},
    {"Drafting", "draft draft-rows verify show-draft"},
    {"Files of records", "jsonl shard ignore-fields field"},
    {"Output", "output json quiet yes"}};

constexpr std::pair<const char*, const char*> kExamples[] = {
    {"generate", "cambium generate smollm2 --chat -p \"Give me three tips for better sleep.\" -n 200"},
    {"run", "cambium run smollm2 --system-prompt \"Answer in one sentence.\""},
    {"serve", "cambium serve smollm2 --graft notes=my-lora --port 8080"},
    {"train", "cambium train smollm2 --data notes.jsonl --graft lora -o my-lora"},
    {"plan", "cambium plan smollm2 --data notes.jsonl --graft lora"},
    {"merge", "cambium merge smollm2 --graft my-lora -o merged.gguf --type Q8_0"},
    {"extract", "cambium extract smollm2 tuned -o delta --energy 0.99"},
    {"prefix", "cambium prefix smollm2 -p \"You are terse.\" -o terse"},
    {"tokenize", "cambium tokenize smollm2 -p \"The cambium of a tree\""},
    {"score", "cambium score smollm2 -p \"The cambium of a tree\""},
    {"eval", "cambium eval smollm2 --jsonl notes.jsonl --graft my-lora"},
    {"inspect", "cambium inspect smollm2 --tensors"},
    {"convert", "cambium convert ./hugging-face-directory model.gguf"},
    {"quantize", "cambium quantize model.gguf small.gguf Q8_0"},
    {"pull", "cambium pull smollm2"},
    {"list", "cambium list --json"},
    {"rm", "cambium rm smollm2"},
    {"bench", "cambium bench smollm2 -p 512 -n 128"},
    {"build", "cambium corpus build notes.jsonl -o notes.index"},
    {"cover", "cambium window cover \"a tree in spring\" \"ei\""},
    {"max", "cambium window max 3 1 5 2 4"},
    {"completion", "source <(cambium completion bash)"}};

bool Holds(std::string_view words, std::string_view word) {
  for (size_t at = 0; (at = words.find(word, at)) != words.npos; ++at) {
    const bool begins = at == 0 || words[at - 1] == ' ';
    const size_t end = at + word.size();
    if (begins && (end == words.size() || words[end] == ' ')) return true;
  }
  return false;
}

template <class Groups>
const char* GroupOf(const Groups& groups, std::string_view word) {
  for (const Group& group : groups) {
    if (Holds(group.members, word)) return group.name;
  }
  return nullptr;
}

void ArrangeVerb(CLI::App& verb) {
  const std::string& name = verb.get_name();
  for (CLI::Option* const option : verb.get_options()) {
    const bool named = !option->get_lnames().empty();
    const std::string word = named ? option->get_lnames().front() : option->get_name(true);
    const bool trains = name == "train" || name == "plan";
    const char* const group = trains ? GroupOf(kTrainGroups, word) : GroupOf(kGroups, word);
    if (group != nullptr) option->group(group);
  }
  const auto example = std::ranges::find(kExamples, name, &std::pair<const char*, const char*>::first);
  if (example != std::end(kExamples)) {
    const std::string before = verb.get_footer().empty() ? "" : verb.get_footer() + "\n\n";
    verb.footer(before + "For example:\n  " + example->second);
  }
  for (CLI::App* const child : verb.get_subcommands(nullptr)) ArrangeVerb(*child);
}

std::vector<std::string> Words(std::string text) {
  std::ranges::replace(text, ',', ' ');
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}

}  // namespace

void ArrangeHelp(CLI::App& app) {
  for (CLI::App* const verb : app.get_subcommands(nullptr)) {
    if (const char* const group = GroupOf(kVerbGroups, verb->get_name()); group != nullptr) verb->group(group);
    ArrangeVerb(*verb);
  }
  app.footer(
      "For example:\n  cambium pull smollm2\n  cambium run smollm2\n\n`cambium VERB --help` has an example of each.");
}

std::vector<std::string> ValuesOf(const std::string& verb, const CLI::Option& option) {
  const std::string type = option.get_type_name();  // TEXT:{model,text} where CLI11 checks it
  const size_t open = type.find('{'), close = type.find('}');
  if (open != type.npos && close != type.npos) return Words(type.substr(open + 1, close - open - 1));
  const std::string name = option.get_lnames().empty() ? option.get_name(true) : option.get_lnames().front();
  if (name == "graft" && (verb == "train" || verb == "plan")) return Words(GraftKinds());
  static constexpr std::pair<const char*, const char*> kValues[] = {
      {"kv-type", "f16 f32 q8"},
      {"verify", "match rejection typical"},
      {"draft", "auto none grammar ngram recycle corpus:index= model:path= exit medusa mtp"},
      {"precision", "fp32 bf16 fp16"},
      {"schedule", "cosine linear constant"},
      {"format", "auto chat completions text alpaca sharegpt ids plain"},
      {"prefix-init", "text random zero"},
      {"variant", "houlsby pfeiffer parallel scaled-parallel"},
      {"activation", "relu swish gelu gelu_new tanh"},
      {"adapter-init", "zero-up bert houlsby"},
      {"with-heads", "medusa mtp exit"},
      {"type", "Q8_0 Q4_0 Q4_1 Q4_K F16 BF16 F32"}};
  const auto found = std::ranges::find(kValues, name, &std::pair<const char*, const char*>::first);
  return found == std::end(kValues) || verb == "window max" ? std::vector<std::string>() : Words(found->second);
}

}  // namespace cambium::cli
