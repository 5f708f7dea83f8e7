// What trained draft heads are good for.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "decode/scheduler.h"
#include "drafters/drafters.h"
#include "drafters/tree_shape.h"
#include "engine/training_impl.h"
#include "io/atomic_file.h"

namespace cambium {
namespace {

constexpr size_t kMostNodes = 31, kAnswers = 32, kPrompts = 16;
constexpr int64_t kContext = 256, kAnswer = 96;

// What stands before the answer, whole; of a text without one, or with one too long for an answer behind it, the first
// half, at most kHalf tokens.
std::span<const int32_t> PromptOf(const Example& example) {
  constexpr int64_t kHalf = 64;
  const std::span<const int32_t> ids(example.ids);
  const auto answer = std::ranges::find(example.trained, 1) - example.trained.begin();
  const bool dialogue = answer > 1 && answer < std::ssize(example.ids) && answer + kAnswer <= kContext;
  return ids.first(static_cast<size_t>(dialogue ? answer : std::min(kHalf, std::ssize(ids) / 2)));
}

// Every second text's prompt, from the first or the second on: what is measured is not what was expected from.
std::vector<std::vector<int32_t>> Prompts(const std::vector<Example>& examples, size_t first, size_t most) {
  std::vector<std::vector<int32_t>> prompts;
  for (size_t i = std::min(first, examples.size() - 1); i < examples.size() && prompts.size() < most; i += 2) {
    const std::span<const int32_t> prompt = PromptOf(examples[i]);
    if (prompt.size() > 1) prompts.emplace_back(prompt.begin(), prompt.end());
  }
  return prompts;
}

DecodeRequest Greedy(Training::Impl& t, std::vector<int32_t> prompt, std::shared_ptr<const GraftSet> grafts) {
  DecodeRequest request;
  request.prompt = std::move(prompt);
  request.grafts = std::move(grafts);
  request.sampling.temperature = 0;
  request.max_tokens = kAnswer;
  request.context = kContext;
  request.vocabulary = t.m.tokenizer.text_size();
  request.end_tokens = t.m.tokenizer.end_of_generation();
  return request;
}

// How right the heads are on what the model says itself, which is what drafts meet: on greedy answers to `prompts`.
// First over all rows, then along chains (HeadsLoss::along).
std::pair<HeadAccuracy, HeadAccuracy> OnAnswers(Training::Impl& t, const HeadsOptions& options, Compute compute,
                                                const std::vector<std::vector<int32_t>>& prompts) {
  std::vector<Example> answered(prompts.size());
  int64_t longest = 0;
  for (const std::vector<int32_t>& prompt : prompts) longest = std::max<int64_t>(longest, std::ssize(prompt));
  SchedulerOptions scheduling;
  scheduling.parallel = 32;
  const auto grafts = GraftsOf(options.trunk);
  KvCache kv(t.transformer.config(), DType::kF16,
             scheduling.parallel * (grafts->slots_before() + longest + kAnswer + 64));
  Scheduler scheduler(t.transformer, kv, scheduling);
  for (size_t i = 0; i < prompts.size(); ++i) {
    DecodeRequest request = Greedy(t, prompts[i], grafts);
    request.on_end = [&answered, &prompts, i](const DecodeResult& result) {
      if (result.error) std::rethrow_exception(result.error);
      Example& example = answered[i];
      example.ids = prompts[i];
      example.ids.insert(example.ids.end(), result.tokens.begin(), result.tokens.end());
      if (result.end_token >= 0) example.ids.push_back(result.end_token);
      example.trained.assign(prompts[i].size(), 0);
      example.trained.resize(example.ids.size(), 1);
    };
    scheduler.Add(std::move(request));
  }
  while (scheduler.Step()) {
  }
  HeadsLoss loss(t.transformer, *t.heads(), compute, options, {}, "");
  for (const Example& example : answered) {
    if (std::isfinite(loss.Run({&example}, 0))) continue;
    Fail(ErrorCode::kRuntime, "the loss of the heads is not finite; `cambium inspect --check` looks for NaN");
  }
  return {loss.accuracy(), loss.along()};
}

// Milliseconds of passes over 1, 2, ... kMostNodes + 1 rows behind a short text; the fastest of several, straight lines
// between the sizes that are timed.
std::vector<double> PassTimes(Training::Impl& t, Scheduler& scheduler, const std::shared_ptr<const GraftSet>& grafts) {
  const std::vector<int64_t> sizes = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32};
  std::vector<double> times(sizes.size(), 1e30);
  const std::vector<int32_t>& text = t.data.examples.front().ids;
  std::vector<int32_t> ids;
  for (size_t i = 0; i < 96; ++i) ids.push_back(text[i % text.size()]);
  const DecodeRequest request = Greedy(t, {ids.begin(), ids.begin() + 64}, grafts);
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      times[i] = std::min(times[i], scheduler.TimePass(request, std::span(ids).last(static_cast<size_t>(sizes[i]))));
    }
  }
  std::vector<double> all;
  for (int64_t rows = 1; rows <= sizes.back(); ++rows) {
    const size_t above = static_cast<size_t>(std::lower_bound(sizes.begin(), sizes.end(), rows) - sizes.begin());
    if (sizes[above] == rows) {
      all.push_back(times[above]);
      continue;
    }
    const double share =
        static_cast<double>(rows - sizes[above - 1]) / static_cast<double>(sizes[above] - sizes[above - 1]);
    all.push_back(times[above - 1] + share * (times[above] - times[above - 1]));
  }
  return all;
}

struct Measured {
  int64_t tokens = 0, passes = 0, prompts = 0;
  double ms = 0, draft_ms = 0;
  std::vector<std::vector<int32_t>> ids;
  double PerPass() const { return static_cast<double>(tokens) / static_cast<double>(std::max<int64_t>(1, passes)); }
  double PerSecond() const { return 1000 * static_cast<double>(tokens) / std::max(ms, 1e-9); }
};

// Greedy answers to the prompts, one at a time.
Measured Answer(Training::Impl& t, Scheduler& scheduler, const std::shared_ptr<const GraftSet>& grafts,
                const std::shared_ptr<DrafterSet>& drafters, const std::vector<std::vector<int32_t>>& prompts) {
  Measured sum;
  for (const std::vector<int32_t>& prompt : prompts) {
    ++sum.prompts;
    DecodeRequest request = Greedy(t, prompt, grafts);
    request.drafters = drafters;
    const DecodeResult result = RunToEnd(scheduler, std::move(request));
    sum.tokens += result.decode_tokens;
    sum.passes += result.counters.passes;
    sum.ms += result.decode_ms;
    sum.draft_ms += result.counters.draft_ms;
    sum.ids.push_back(result.tokens);
  }
  return sum;
}

// The best tree of at most kMostNodes for this machine, and every smaller one with what it brings and costs.
struct TreeChoice {
  std::vector<std::vector<double>> rates;  // by depth and rank: chances that a guess is right
  std::vector<ShapeNode> nodes;            // of all of them; the first `best` are the best tree
  size_t best = 0, deepest = 1;
  double expected = 1;  // tokens a pass with the best
  nlohmann::ordered_json budgets = nlohmann::ordered_json::array();

  TreeChoice(const Heads& heads, const HeadAccuracy& accuracy, const std::vector<double>& pass_ms);
  std::string ShapeJson() const;
};

TreeChoice::TreeChoice(const Heads& heads, const HeadAccuracy& accuracy, const std::vector<double>& pass_ms) {
  for (size_t d = 0; d < static_cast<size_t>(heads.depths()); ++d) {
    std::vector<double>& ranks = rates.emplace_back();
    for (size_t rank = 0; rank < HeadAccuracy::kRanks; ++rank) ranks.push_back(accuracy.At(d, rank));
  }
  nodes = BestTree(rates, kMostNodes, heads.chained());
  double so_far = 1, best_rate = 1 / pass_ms[0];
  for (size_t n = 1; n <= nodes.size(); ++n) {
    so_far += nodes[n - 1].chance;
    const double rate = so_far / pass_ms[n];
    budgets.push_back({{"nodes", n}, {"path", nodes[n - 1].path}, {"expected", so_far}, {"pass_ms", pass_ms[n]}});
    if (rate > best_rate) {
      best_rate = rate;
      expected = so_far;
      best = n;
    }
  }
  if (heads.first() == 1) best = 0;  // an exit's drafts go on level by level; no tree says what they bring
  for (size_t i = 0; i < best; ++i) deepest = std::max(deepest, nodes[i].path.size());
}

std::string TreeChoice::ShapeJson() const {
  nlohmann::json shape = nlohmann::json::array();
  for (size_t i = 0; i < best; ++i) shape.push_back(nodes[i].path);
  return shape.dump() + "\n";
}

void WriteWhole(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.Write(text);
  file.Commit();
}

// Speed without drafts, with the best tree, and as the planner would have it.
struct Comparison {
  Measured plain, drafted, planned;
  bool same = false;  // the same ids
};

Comparison Compare(Training::Impl& t, Scheduler& scheduler, const DrafterTarget& target, const TreeChoice& tree,
                   const std::string& tree_file, const std::vector<std::vector<int32_t>>& prompts) {
  Comparison c;
  const Heads& heads = *t.heads();
  const std::shared_ptr<const GraftSet> grafts = GraftsOf({target.grafts.begin(), target.grafts.end()});
  if (!prompts.empty()) Answer(t, scheduler, grafts, nullptr, {prompts.front()});  // the first passes are slower
  c.plain = Answer(t, scheduler, grafts, nullptr, prompts);
  if (tree.best > 0) {
    DrafterSpec spec{heads.kind(), {}};
    spec.options = {{"max", std::to_string(tree.deepest)}};
    if (!heads.chained()) spec.options["tree"] = tree_file;
    std::vector<std::unique_ptr<Drafter>> drafter;
    drafter.push_back(MakeHeadsDrafter(spec, target));
    c.drafted = Answer(t, scheduler, grafts, std::make_shared<DrafterSet>(std::move(drafter), false), prompts);
  }
  const auto drafters = std::make_shared<DrafterSet>(MakeDrafters({heads.kind()}, target));
  c.planned = Answer(t, scheduler, grafts, drafters, prompts);
  c.same = c.planned.ids == c.plain.ids && (tree.best == 0 || c.drafted.ids == c.plain.ids);
  return c;
}

std::vector<std::string> Lines(const Training::Impl& t, const HeadAccuracy& accuracy, size_t answered,
                               const TreeChoice& tree, const std::string& tree_file, const Comparison& c) {
  const Heads& heads = *t.heads();
  std::vector<std::string> lines;
  lines.push_back(fmt::format("on the model's own answers to {} {} prompts:", answered,
                              t.valid.examples.empty() ? "training" : "validation"));
  lines.push_back("depth   right at once   in 5   in 10");
  for (size_t d = 0; d < accuracy.rows.size(); ++d) {
    lines.push_back(fmt::format("{:5}   {:12.1f} %  {:5.1f}  {:6.1f}", d + 1, 100 * accuracy.Top(d, 1),
                                100 * accuracy.Top(d, 5), 100 * accuracy.Top(d, 10)));
  }
  if (heads.first() > 1) {
    lines.push_back(fmt::format("best tree on this machine: {} nodes, {} deep ({})", tree.best,
                                tree.best == 0 ? 0 : tree.deepest, tree_file));
  }
  if (c.plain.prompts == 0) {
    lines.push_back("no text is long enough to measure speed on");
    return lines;
  }
  if (tree.best > 0) {
    lines.push_back(fmt::format("tokens a pass: {:.2f} expected, {:.2f} measured on {} others", tree.expected,
                                c.drafted.PerPass(), c.drafted.prompts));
  }
  lines.push_back(fmt::format("--draft {}: {:.2f} tokens a pass, {:.1f} tokens/s, {:.2f} x the {:.1f} without; ids {}",
                              heads.kind(), c.planned.PerPass(), c.planned.PerSecond(),
                              c.planned.PerSecond() / c.plain.PerSecond(), c.plain.PerSecond(),
                              c.same ? "identical" : "DIFFERENT"));
  return lines;
}

nlohmann::ordered_json ByDepth(const HeadAccuracy& accuracy, const TreeChoice& tree) {
  nlohmann::ordered_json by_depth = nlohmann::ordered_json::array();
  for (size_t d = 0; d < accuracy.rows.size(); ++d) {
    std::vector<double> ranks;
    for (size_t rank = 0; rank < HeadAccuracy::kRanks; ++rank) ranks.push_back(accuracy.At(d, rank));
    by_depth.push_back({{"rows", accuracy.rows[d]}, {"ranks", ranks}, {"in_the_tree", tree.rates[d]}});
  }
  return by_depth;
}

nlohmann::ordered_json ToJson(const Measured& m) {
  return {{"tokens", m.tokens}, {"passes", m.passes}, {"ms", m.ms}, {"draft_ms", m.draft_ms}};
}

}  // namespace

std::vector<std::string> ReportHeads(Training::Impl& t) {
  Heads& heads = *t.heads();
  const std::vector<Example>& held_out = t.valid.examples.empty() ? t.data.examples : t.valid.examples;
  std::vector<Graft*> stack;
  int64_t prefix = 0;
  for (const auto& part : t.trunk) {
    stack.push_back(part.get());
    prefix += part->prefix_length();
  }
  if (t.with_heads != nullptr) stack.push_back(t.graft.get());
  // The trunk as it is served now; a teacher's states, where heads were trained beside a graft, are of the model
  // without.
  HeadsOptions options = t.setup.train.heads;
  options.trunk = stack;
  options.feature_weight = 0;  // only ranks are asked for
  const std::vector<std::vector<int32_t>> answered = Prompts(held_out, 0, kAnswers);
  const std::vector<std::vector<int32_t>> prompts = Prompts(held_out, 1, kPrompts);
  const auto [accuracy, along] = OnAnswers(t, options, PlanOf(t.setup.train.precision).compute, answered);
  stack.push_back(&heads);
  KvCache kv(t.transformer.config(), DType::kF16, 2 * (prefix + kContext) + 128);
  Scheduler scheduler(t.transformer, kv, {});
  const std::vector<double> pass_ms = PassTimes(t, scheduler, GraftsOf(stack));
  const TreeChoice tree(heads, heads.chained() ? along : accuracy, pass_ms);
  const std::string tree_file = t.config.output + "/tree.json";
  WriteWhole(tree_file, tree.ShapeJson());

  heads.Freeze();  // as serving has them
  const DrafterTarget target = {t.transformer, kv, t.m.tokenizer, Compute::kInt8, kContext, stack};
  const Comparison c = Compare(t, scheduler, target, tree, tree_file, prompts);
  const nlohmann::ordered_json report = {{"kind", heads.kind()},
                                         {"held_out", !t.valid.examples.empty()},
                                         {"accuracy", ByDepth(accuracy, tree)},
                                         {"trees", tree.budgets},
                                         {"pass_ms_1", pass_ms[0]},
                                         {"best_nodes", tree.best},
                                         {"expected", tree.expected},
                                         {"plain", ToJson(c.plain)},
                                         {"best_tree", ToJson(c.drafted)},
                                         {"planned", ToJson(c.planned)},
                                         {"identical", c.same}};
  WriteWhole(t.config.output + "/heads_report.json", report.dump() + "\n");
  return Lines(t, accuracy, answered.size(), tree, tree_file, c);
}

}  // namespace cambium
