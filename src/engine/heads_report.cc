#include "cli/heads_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <chrono>

#include "decode/scheduler.h"
#include "drafters/drafters.h"
#include "drafters/tree_shape.h"
#include "io/atomic_file.h"

namespace cambium::cli {
namespace {

constexpr size_t kMostNodes = 31, kAnswers = 32, kPrompts = 16;
constexpr int64_t kContext = 256, kAnswer = 96;

// Every second text's beginning, from the first or the second on: what is measured is not what was expected from.
std::vector<std::vector<int32_t>> Beginnings(const std::vector<Example>& examples, size_t first, size_t most) {
  std::vector<std::vector<int32_t>> prompts;
  for (size_t i = std::min(first, examples.size() - 1); i < examples.size() && prompts.size() < most; i += 2) {
    const std::vector<int32_t>& ids = examples[i].ids;
    const size_t count = std::min<size_t>(64, ids.size() / 2);
    if (count > 1) prompts.emplace_back(ids.begin(), ids.begin() + static_cast<int64_t>(count));
  }
  return prompts;
}

DecodeRequest Greedy(TrainSession& session, std::vector<int32_t> prompt, std::shared_ptr<const GraftSet> grafts) {
  DecodeRequest request;
  request.prompt = std::move(prompt);
  request.grafts = std::move(grafts);
  request.sampling.temperature = 0;
  request.max_tokens = kAnswer;
  request.context = kContext;
  request.vocabulary = session.tokenizer.text_size();
  request.end_tokens = session.tokenizer.end_of_generation();
  return request;
}

// How right the heads are on what the model says itself, which is what drafts meet: on greedy answers to `prompts`.
// First over all rows, then along chains (HeadsLoss::along).
std::pair<HeadAccuracy, HeadAccuracy> OnAnswers(TrainSession& session, const HeadsOptions& options, Compute compute,
                                                const std::vector<std::vector<int32_t>>& prompts) {
  std::vector<Example> answered(prompts.size());
  int64_t longest = 0;
  for (const std::vector<int32_t>& prompt : prompts) longest = std::max<int64_t>(longest, std::ssize(prompt));
  SchedulerOptions scheduling;
  scheduling.parallel = 32;
  const auto grafts = GraftsOf(options.trunk);
  KvCache kv(session.model->config(), DType::kF16, scheduling.parallel * (grafts->slots_before() + longest + kAnswer + 64));
  Scheduler scheduler(*session.model, kv, scheduling);
  for (size_t i = 0; i < prompts.size(); ++i) {
    DecodeRequest request = Greedy(session, prompts[i], grafts);
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
  HeadsLoss loss(*session.model, session.heads(), compute, options, {}, "");
  for (const Example& example : answered) {
    if (std::isfinite(loss.Run({&example}, 0))) continue;
    Fail(ErrorCode::kRuntime, "the loss of the heads is not finite; `cambium inspect --check` looks for NaN");
  }
  return {loss.accuracy(), loss.along()};
}

// Milliseconds of passes over 1, 2, ... kMostNodes + 1 rows behind a short text; the fastest of several, straight lines
// between the sizes that are timed.
std::vector<double> PassTimes(TrainSession& session, Scheduler& scheduler, const std::shared_ptr<const GraftSet>& grafts) {
  const std::vector<int64_t> sizes = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32};
  std::vector<double> times(sizes.size(), 1e30);
  const std::vector<int32_t>& text = session.data.examples.front().ids;
  std::vector<int32_t> ids;
  for (size_t i = 0; i < 96; ++i) ids.push_back(text[i % text.size()]);
  const DecodeRequest request = Greedy(session, {ids.begin(), ids.begin() + 64}, grafts);
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
    const double share = static_cast<double>(rows - sizes[above - 1]) / static_cast<double>(sizes[above] - sizes[above - 1]);
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
Measured Answer(TrainSession& session, Scheduler& scheduler, const std::shared_ptr<const GraftSet>& grafts,
                const std::shared_ptr<DrafterSet>& drafters, const std::vector<std::vector<int32_t>>& prompts) {
  Measured sum;
  for (const std::vector<int32_t>& prompt : prompts) {
    ++sum.prompts;
    DecodeRequest request = Greedy(session, prompt, grafts);
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

}  // namespace

std::string ShortAccuracy(const HeadAccuracy& accuracy) {
  std::string text;
  for (size_t d = 0; d < accuracy.rows.size(); ++d) {
    text += fmt::format("{}{:.0f}/{:.0f}", d == 0 ? "" : " ", 100 * accuracy.Top(d, 1), 100 * accuracy.Top(d, 5));
  }
  return text;
}

void ReportHeads(TrainSession& session, const TrainFlags& flags) {
  Heads& heads = session.heads();
  const int64_t depths = heads.depths();
  const std::vector<Example>& held_out =
      session.valid.examples.empty() ? session.data.examples : session.valid.examples;
  session.train_grafts.clear();
  int64_t prefix = 0;
  for (const auto& part : session.trunk) {
    session.train_grafts.push_back(part.get());
    prefix += part->prefix_length();
  }
  if (session.with_heads != nullptr) session.train_grafts.push_back(session.graft.get());
  // The trunk as it is served now; a teacher's states, where heads were trained beside a graft, are of the model without.
  HeadsOptions options = flags.train.heads;
  options.trunk = session.train_grafts;
  options.feature_weight = 0;  // only ranks are asked for
  const std::vector<std::vector<int32_t>> answered = Beginnings(held_out, 0, kAnswers), prompts = Beginnings(held_out, 1, kPrompts);
  const auto [accuracy, along] = OnAnswers(session, options, PlanOf(flags.train.precision).compute, answered);
  session.train_grafts.push_back(&heads);
  const std::shared_ptr<const GraftSet> grafts = GraftsOf(session.train_grafts);
  KvCache kv(session.model->config(), DType::kF16, 2 * (prefix + kContext) + 128);
  Scheduler scheduler(*session.model, kv, {});
  const std::vector<double> pass_ms = PassTimes(session, scheduler, grafts);

  std::vector<std::vector<double>> rates;
  for (size_t d = 0; d < static_cast<size_t>(depths); ++d) {
    std::vector<double>& ranks = rates.emplace_back();
    for (size_t rank = 0; rank < HeadAccuracy::kRanks; ++rank) ranks.push_back((heads.chained() ? along : accuracy).At(d, rank));
  }
  const std::vector<ShapeNode> tree = BestTree(rates, kMostNodes, heads.chained());
  nlohmann::ordered_json budgets = nlohmann::ordered_json::array();
  double expected = 1, best_rate = 1 / pass_ms[0], best_expected = 1;
  size_t best = 0;
  for (size_t n = 1; n <= tree.size(); ++n) {
    expected += tree[n - 1].chance;
    const double rate = expected / pass_ms[n];
    budgets.push_back({{"nodes", n}, {"path", tree[n - 1].path}, {"expected", expected}, {"pass_ms", pass_ms[n]}});
    if (rate > best_rate) {
      best_rate = rate;
      best_expected = expected;
      best = n;
    }
  }
  if (heads.first() == 1) best = 0;  // an exit's drafts go on level by level; no tree says what they bring
  nlohmann::json shape = nlohmann::json::array();
  size_t deepest = 1;
  for (size_t i = 0; i < best; ++i) {
    shape.push_back(tree[i].path);
    deepest = std::max(deepest, tree[i].path.size());
  }
  const std::string tree_file = flags.directory + "/tree.json";
  AtomicFile out(tree_file);
  out.Write(shape.dump() + "\n");
  out.Commit();

  heads.Freeze();  // as serving has them
  const DrafterTarget target = {*session.model, kv, session.tokenizer, Compute::kInt8, kContext, session.train_grafts};
  const Measured plain = Answer(session, scheduler, grafts, nullptr, prompts);
  Measured drafted;
  if (best > 0) {
    DrafterSpec spec{heads.kind(), {}};
    spec.options = {{"max", std::to_string(deepest)}};
    if (!heads.chained()) spec.options["tree"] = tree_file;
    std::vector<std::unique_ptr<Drafter>> drafter;
    drafter.push_back(MakeHeadsDrafter(spec, target));
    drafted = Answer(session, scheduler, grafts, std::make_shared<DrafterSet>(std::move(drafter), false), prompts);
  }
  const auto drafters = std::make_shared<DrafterSet>(MakeDrafters({heads.kind()}, target));
  const Measured planned = Answer(session, scheduler, grafts, drafters, prompts);

  const auto line = [&](const std::string& text) { Note(flags.output, text); };
  nlohmann::ordered_json by_depth = nlohmann::ordered_json::array();
  line(fmt::format("on the model's own answers to {} {} texts' beginnings:", answered.size(),
                   session.valid.examples.empty() ? "training" : "validation"));
  line("depth   right at once   in 5   in 10");
  for (size_t d = 0; d < accuracy.rows.size(); ++d) {
    line(fmt::format("{:5}   {:12.1f} %  {:5.1f}  {:6.1f}", d + 1, 100 * accuracy.Top(d, 1), 100 * accuracy.Top(d, 5),
                     100 * accuracy.Top(d, 10)));
    std::vector<double> ranks;
    for (size_t rank = 0; rank < HeadAccuracy::kRanks; ++rank) ranks.push_back(accuracy.At(d, rank));
    by_depth.push_back({{"rows", accuracy.rows[d]}, {"ranks", ranks}, {"in_the_tree", rates[d]}});
  }
  if (heads.first() > 1) line(fmt::format("best tree on this machine: {} nodes, {} deep ({})", best, best == 0 ? 0 : deepest, tree_file));
  if (best > 0 && !prompts.empty()) {
    line(fmt::format("tokens a pass: {:.2f} expected, {:.2f} measured on {} others", best_expected, drafted.PerPass(),
                     drafted.prompts));
  }
  const bool same = planned.ids == plain.ids && (best == 0 || drafted.ids == plain.ids);
  line(prompts.empty() ? "no text is long enough to measure speed on"
                       : fmt::format("--draft {}: {:.2f} tokens a pass, {:.1f} tokens/s, {:.2f} x the {:.1f} without; ids {}",
                                     heads.kind(), planned.PerPass(), planned.PerSecond(),
                                     planned.PerSecond() / plain.PerSecond(), plain.PerSecond(), same ? "identical" : "DIFFERENT"));
  const auto measured = [](const Measured& m) -> nlohmann::ordered_json {
    return {{"tokens", m.tokens}, {"passes", m.passes}, {"ms", m.ms}, {"draft_ms", m.draft_ms}};
  };
  const nlohmann::ordered_json report = {{"kind", heads.kind()},
                                         {"held_out", !session.valid.examples.empty()},
                                         {"accuracy", by_depth},
                                         {"trees", budgets},
                                         {"pass_ms_1", pass_ms[0]},
                                         {"best_nodes", best},
                                         {"expected", best_expected},
                                         {"plain", measured(plain)},
                                         {"best_tree", measured(drafted)},
                                         {"planned", measured(planned)},
                                         {"identical", same}};
  AtomicFile file(flags.directory + "/heads_report.json");
  file.Write(report.dump() + "\n");
  file.Commit();
}

}  // namespace cambium::cli
