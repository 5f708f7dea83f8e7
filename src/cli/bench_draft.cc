// Definitions as Spec-Bench's (Xia et al. 2024): speed-up is the ratio of the mean rates over prompts, the prompt's
// time included; mean accepted tokens are tokens a pass of the target.
#include "cli/bench_draft.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "cli/draft_tree.h"
#include "io/json_lines.h"

namespace cambium::cli {

std::vector<BenchPrompt> ReadBenchPrompts(const std::string& path) {
  std::vector<BenchPrompt> prompts;
  for (JsonLines lines(path); lines.Next();) {
    const nlohmann::ordered_json& record = lines.record();
    BenchPrompt prompt;
    try {
      prompt.id = record.value("id", std::to_string(lines.line()));
      prompt.task = record.value("task", "all");
      if (record.contains("prompt")) {
        prompt.raw = true;
        prompt.turns = {record["prompt"].get<std::string>()};
      } else if (record.contains("messages")) {
        for (const auto& message : record["messages"]) {
          if (message.at("role") == "user") prompt.turns.push_back(message.at("content").get<std::string>());
        }
      } else {
        prompt.turns = record.at("turns").get<std::vector<std::string>>();
      }
    } catch (const nlohmann::json::exception&) {
      lines.Bad("expected \"turns\": [text, ...], \"prompt\": text or \"messages\"");
    }
    if (prompt.turns.empty()) lines.Bad("turns is empty");
    prompts.push_back(std::move(prompt));
  }
  if (prompts.empty()) Fail(ErrorCode::kData, path, ": there are no prompts");
  return prompts;
}

std::vector<std::string> SplitDrafters(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('+', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

namespace {

struct Totals {
  int64_t runs = 0, equal = 0, tokens = 0, passes = 0, drafts = 0, nodes = 0, accepted = 0;
  std::vector<int64_t> per_pos;
  double decode_rates = 0, whole_rates = 0, draft_ms = 0, verify_ms = 0;

  void Add(const Generation& run, bool same) {
    const Timings& t = run.timings;
    ++runs;
    equal += same;
    tokens += t.decode_tokens;
    passes += run.draft.passes;
    drafts += run.draft.num_drafts;
    nodes += run.draft.num_draft_tokens;
    accepted += run.draft.num_accepted_tokens;
    const std::vector<int64_t>& by_depth = run.draft.num_accepted_tokens_per_pos;
    per_pos.resize(std::max(per_pos.size(), by_depth.size()));
    for (size_t i = 0; i < by_depth.size(); ++i) per_pos[i] += by_depth[i];
    decode_rates += t.decode_ms > 0 ? 1000 * static_cast<double>(t.decode_tokens) / t.decode_ms : 0;
    whole_rates += 1000 * static_cast<double>(t.decode_tokens + 1) / std::max(t.prompt_ms + t.decode_ms, 1e-9);
    draft_ms += run.draft.draft_ms;
    verify_ms += run.draft.verify_ms;
  }
  double decode_tps() const { return decode_rates / static_cast<double>(runs); }
  double whole_tps() const { return whole_rates / static_cast<double>(runs); }
  double tokens_per_pass() const { return passes > 0 ? static_cast<double>(tokens) / static_cast<double>(passes) : 1; }
  // 1 where nothing was drawn behind the first token.
  static double Ratio(double a, double b) { return a > 0 && b > 0 ? a / b : 1; }
  double draft_share() const { return draft_ms / std::max(draft_ms + verify_ms, 1e-9); }
};

class BenchDrafts {
 public:
  BenchDrafts(const BenchDraftFlags& flags, const OutputFlags& output, Engine& engine, int64_t max_tokens)
      : flags_(flags), output_(output), engine_(engine) {
    options_.sampling.temperature = static_cast<float>(flags.temperature);
    options_.sampling.seed = static_cast<uint64_t>(flags.seed);
    options_.max_tokens = max_tokens;
    options_.drafting.max_rows = flags.rows;
    options_.adapters = Adapters().Load(engine.model(), flags.grafts);
    options_.trace = !flags.tree.empty();
    modes_ = {"none"};
    for (const std::string& drafter : flags.drafters) {
      if (drafter != "none") modes_.push_back(drafter);
    }
  }

  void Run(int repetitions) {
    const std::vector<BenchPrompt> prompts = ReadBenchPrompts(flags_.prompts);
    for (const std::string& mode : modes_) {  // warms up: the first passes are slower, and a drafter loads its files
      Generate(engine_.model().Tokenize("Say hello."), mode);
    }
    for (int repetition = 0; repetition < repetitions; ++repetition) {
      for (size_t i = 0; i < prompts.size(); ++i) RunPrompt(prompts[i], i);
    }
    if (!flags_.tree.empty()) {
      std::ofstream file(flags_.tree, std::ios::binary);
      if (!(file << tree_ << std::flush)) Fail(ErrorCode::kResource, flags_.tree, ": cannot be written");
    }
    output_.json ? PrintJson() : PrintText();
    if (unequal_ > 0) Fail(ErrorCode::kRuntime, unequal_, " drafted texts differ from the plain ones");
  }

 private:
  std::vector<int32_t> Ids(const std::vector<Message>& messages) const {
    return engine_.model().TokenizeChat(messages);
  }

  Generation Generate(const std::vector<int32_t>& ids, const std::string& mode) {
    engine_.ForgetCached();  // every run pays for its prompt
    Request request = options_;
    request.prompt = ids;
    request.drafting.drafters = SplitDrafters(mode);
    return engine_.Generate(std::move(request), [&](const Event& event) {
      if (event.kind == Event::Kind::kPass) Draw(*event.pass);
    });
  }

  void RunPrompt(const BenchPrompt& prompt, size_t number) {
    std::vector<Message> messages;
    for (size_t turn = 0; turn < prompt.turns.size(); ++turn) {
      messages.push_back({"user", prompt.turns[turn]});
      const bool raw = prompt.raw && !flags_.chat;
      const std::vector<int32_t> ids = raw ? engine_.model().Tokenize(prompt.turns[turn]) : Ids(messages);
      std::map<std::string, Generation> runs;
      // Modes take turns at going first, so that a drift of the machine meets them all.
      for (size_t i = 0; i < modes_.size(); ++i) {
        const std::string& mode = modes_[(i + number) % modes_.size()];
        runs[mode] = Generate(ids, mode);
      }
      for (const std::string& mode : modes_) {
        const Generation& run = runs[mode];
        const bool equal = run.ids == runs["none"].ids;
        unequal_ += !equal;
        totals_[{mode, prompt.task}].Add(run, equal);
        totals_[{mode, ""}].Add(run, equal);
        if (output_.json) PrintRun(prompt, turn, mode, run, equal);
      }
      messages.push_back({"assistant", runs["none"].text});
      Note(output_, fmt::format("{} turn {}", prompt.id, turn + 1));
    }
  }

  void PrintRun(const BenchPrompt& prompt, size_t turn, const std::string& mode, const Generation& run,
                bool equal) const {
    nlohmann::ordered_json line = ToJson(run);
    line.erase("text");
    line.erase("ids");
    WriteJson({{"id", prompt.id},
               {"task", prompt.task},
               {"turn", turn},
               {"draft", mode},
               {"equal", equal},
               {"timings", line["timings"]},
               {"spec_decode", line["spec_decode"]}});
  }

  // Keeps the picture of a tree that fits a page, branches much and was accepted far.
  void Draw(const DraftTrace& pass) {
    std::set<int32_t> parents;
    std::vector<int32_t> depths;
    size_t accepted = 0;
    for (const DraftTrace::Node& node : pass.nodes) {
      parents.insert(node.parent);
      depths.push_back(node.parent < 0 ? 0 : depths[static_cast<size_t>(node.parent)] + 1);
      accepted += node.accepted;
    }
    constexpr size_t kMostNodes = 16;
    constexpr int32_t kMostDepth = 6;
    const size_t branches = pass.nodes.size() - parents.size();
    if (branches == 0 || pass.nodes.size() > kMostNodes || std::ranges::max(depths) >= kMostDepth) return;
    const size_t score = accepted * (1 + branches);
    if (score <= best_tree_) return;
    best_tree_ = score;
    tree_ = DraftTreeSvg(engine_.model(), pass);
  }

  nlohmann::ordered_json Json(const std::string& mode, const std::string& task, const Totals& t) const {
    const Totals& plain = totals_.at({"none", task});
    return {{"draft", mode},
            {"task", task.empty() ? "overall" : task},
            {"prompts", t.runs},
            {"equal", t.equal},
            {"plain_tps", plain.decode_tps()},
            {"decode_tps", t.decode_tps()},
            {"decode_speedup", Totals::Ratio(t.decode_tps(), plain.decode_tps())},
            {"speedup", Totals::Ratio(t.whole_tps(), plain.whole_tps())},
            {"mean_accepted_tokens", t.tokens_per_pass()},
            {"draft_share", t.draft_share()},
            {"num_drafts", t.drafts},
            {"num_draft_tokens", t.nodes},
            {"num_accepted_tokens", t.accepted},
            {"num_accepted_tokens_per_pos", t.per_pos}};
  }

  void PrintJson() const {
    auto summary = nlohmann::ordered_json::array();
    for (const auto& [key, totals] : totals_) {
      if (key.first != "none") summary.push_back(Json(key.first, key.second, totals));
    }
    WriteJson({{"summary", summary}, {"threads", engine_.model().info().threads}});
  }

  void PrintText() const {
    std::string text =
        fmt::format("{:<24} {:<22} {:>9} {:>9} {:>8} {:>8} {:>7} {:>7} {:>9}  accepted by depth\n", "draft", "task",
                    "plain/s", "tokens/s", "decoding", "with", "tokens", "draft", "equal");
    text += fmt::format("{:<24} {:<22} {:>9} {:>9} {:>8} {:>8} {:>7} {:>7}\n", "", "", "", "", "speed-up", "prompt",
                        "a pass", "time");
    for (const auto& [key, t] : totals_) {
      if (key.first == "none") continue;
      const Totals& plain = totals_.at({"none", key.second});
      text += fmt::format("{:<24} {:<22} {:9.1f} {:9.1f} {:8.2f} {:8.2f} {:7.2f} {:6.1f}% {:>9} ", key.first,
                          key.second.empty() ? "overall" : key.second, plain.decode_tps(), t.decode_tps(),
                          Totals::Ratio(t.decode_tps(), plain.decode_tps()),
                          Totals::Ratio(t.whole_tps(), plain.whole_tps()), t.tokens_per_pass(), 100 * t.draft_share(),
                          fmt::format("{}/{}", t.equal, t.runs));
      for (size_t i = 0; i < t.per_pos.size() && i < 6; ++i) {
        text += fmt::format(" {:.0f}%", 100.0 * static_cast<double>(t.per_pos[i]) /
                                            static_cast<double>(std::max<int64_t>(1, t.drafts)));
      }
      text += "\n";
    }
    Write(text);
  }

  const BenchDraftFlags& flags_;
  const OutputFlags& output_;
  Engine& engine_;
  Request options_;
  std::vector<std::string> modes_;
  std::map<std::pair<std::string, std::string>, Totals> totals_;  // by mode and task; "" is all tasks
  int64_t unequal_ = 0;
  std::string tree_;
  size_t best_tree_ = 0;
};

}  // namespace

void BenchDraft(const BenchDraftFlags& flags, const OutputFlags& output, Engine& engine, int64_t max_tokens,
                int repetitions) {
  if (flags.prompts.empty()) Fail(ErrorCode::kUsage, "bench --draft: --prompts FILE.jsonl is missing");
  BenchDrafts(flags, output, engine, max_tokens).Run(repetitions);
}

}  // namespace cambium::cli
