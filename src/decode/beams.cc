#include "decode/beams.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check_range.h"
#include "decode/scheduler_part.h"
#include "ops/ops.h"

namespace cambium {
namespace {

constexpr float kLater = -1e9f;  // the sum of hypotheses that are alike at first, as transformers has it

// Logits [vocab] as log-probabilities.
void LogSoftmax(std::span<const float> logits, std::vector<float>& logprobs) {
  const float top = *std::ranges::max_element(logits);
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit - top));
  const float normaliser = top + static_cast<float>(std::log(total));
  logprobs.resize(logits.size());
  std::ranges::transform(logits, logprobs.begin(), [&](float logit) { return logit - normaliser; });
}

// The hypotheses' places in the cache.
class Places {
 public:
  explicit Places(KvCache& kv) : kv_(kv) {}
  Places(const Places&) = delete;
  Places& operator=(const Places&) = delete;
  ~Places() { CloseAll(); }

  KvCache::Id operator[](size_t i) const { return ids_[i]; }
  // One a hypothesis: `parents` says behind which place each goes on, in committed slots [0, length).
  void Follow(std::span<const KvCache::Id> parents, int64_t length) {
    std::vector<KvCache::Id> next;
    for (const KvCache::Id parent : parents) next.push_back(kv_.Fork(parent, length));
    CloseAll();
    ids_ = std::move(next);
  }

 private:
  void CloseAll() {
    for (const KvCache::Id id : ids_) kv_.Close(id);
    ids_.clear();
  }
  KvCache& kv_;
  std::vector<KvCache::Id> ids_;
};

}  // namespace

BeamSearch::BeamSearch(const BeamOptions& options, int64_t max_tokens, std::function<bool(int32_t)> ends)
    : options_(options), max_tokens_(max_tokens), ends_(std::move(ends)) {
  CheckRange("beams", static_cast<double>(options.count), 1, static_cast<double>(kMostBeams));
  CheckRange("length_penalty", options.length_penalty, -100, 100);
  Check(max_tokens >= 1, "a hypothesis has room for a token");
  running_.resize(static_cast<size_t>(options.count));
  for (size_t i = 1; i < running_.size(); ++i) running_[i].sum = kLater;
}

// The best continuations over all hypotheses: as many again as there are hypotheses go on at least, whatever ends.
std::vector<BeamSearch::Candidate> BeamSearch::Best(std::span<const std::vector<float>> logprobs) const {
  const size_t wanted = 2 * static_cast<size_t>(options_.count);
  const auto before = [](const Candidate& a, const Candidate& b) {
    if (a.sum != b.sum) return a.sum > b.sum;
    return a.parent != b.parent ? a.parent < b.parent : a.token < b.token;
  };
  std::vector<Candidate> best;  // a heap whose front is the worst
  const auto offer = [&](const Candidate& candidate) {
    if (best.size() == wanted) {
      if (!before(candidate, best.front())) return;
      std::ranges::pop_heap(best, before);
      best.pop_back();
    }
    best.push_back(candidate);
    std::ranges::push_heap(best, before);
  };
  std::vector<Candidate> ends;  // beyond the others: any number of end tokens leaves as many that go on
  for (size_t i = 0; i < logprobs.size(); ++i) {
    for (size_t token = 0; token < logprobs[i].size(); ++token) {
      const Candidate candidate{running_[i].sum + logprobs[i][token], static_cast<int64_t>(i),
                                static_cast<int32_t>(token)};
      if (!std::isfinite(candidate.sum) || (best.size() == wanted && candidate.sum < best.front().sum)) continue;
      if (ends_(candidate.token)) {
        ends.push_back(candidate);
      } else {
        offer(candidate);
      }
    }
  }
  best.insert(best.end(), ends.begin(), ends.end());
  std::ranges::sort(best, before);
  return best;
}

// Of the first `count` continuations those that end; of all that have ended the best `count` stay.
void BeamSearch::KeepEnded(std::span<const Candidate> best, double length) {
  const bool last = static_cast<int64_t>(length) == max_tokens_;
  for (const Candidate& c : best.first(std::min(best.size(), running_.size()))) {
    const bool ends = ends_(c.token);
    if (!ends && !last) continue;
    Beam beam{running_[static_cast<size_t>(c.parent)].tokens, ends ? c.token : -1,
              static_cast<double>(c.sum) / std::pow(length, static_cast<double>(options_.length_penalty))};
    if (!ends) beam.tokens.push_back(c.token);
    ended_.push_back(std::move(beam));
  }
  std::ranges::stable_sort(ended_, std::greater(), &Beam::score);
  if (std::ssize(ended_) > options_.count) ended_.resize(static_cast<size_t>(options_.count));
}

bool BeamSearch::MayImprove() const {
  if (std::ssize(ended_) < options_.count) return true;
  if (options_.stop == BeamOptions::Stop::kEarly) return false;
  const bool longest = options_.stop == BeamOptions::Stop::kNever && options_.length_penalty > 0;
  const double length = static_cast<double>(longest ? max_tokens_ : std::ssize(running_.front().tokens));
  const double possible =
      static_cast<double>(running_.front().sum) / std::pow(length, static_cast<double>(options_.length_penalty));
  return possible > ended_.back().score;
}

bool BeamSearch::Advance(std::span<const std::vector<float>> logprobs) {
  Check(logprobs.size() == running_.size(), "each hypothesis has its row");
  const std::vector<Candidate> best = Best(logprobs);
  if (best.empty())
    Fail(ErrorCode::kRuntime, "no token may follow: the model's logits are not finite, or all are ruled out");
  const int64_t length = std::ssize(running_.front().tokens) + 1;
  KeepEnded(best, static_cast<double>(length));
  if (length == max_tokens_) return false;
  std::vector<Running> next;
  for (const Candidate& c : best) {
    if (next.size() == running_.size()) break;
    if (ends_(c.token)) continue;
    Running& r = next.emplace_back(Running{running_[static_cast<size_t>(c.parent)].tokens, c.sum, c.parent});
    r.tokens.push_back(c.token);
  }
  if (next.empty()) return false;
  running_ = std::move(next);
  return MayImprove();
}

std::vector<Beam> Scheduler::Search(const DecodeRequest& request, const BeamOptions& options, DecodeResult& result) {
  Require(request);
  Sequence s(0, request);
  BeamSearch search(options, s.LeftToDraw(), [&](int32_t token) { return request.ends(token); });
  const Clock::time_point start = Clock::now();
  Pass pass;
  const auto begin = [&] {
    pass = Pass();
    pass.compute = options_.compute;
    pass.kv = &kv_;
  };
  std::vector<std::vector<float>> logprobs(search.running().size());
  // Row i of the pass's logits, as hypothesis i may go on.
  const auto read = [&](size_t i, int64_t row) {
    const std::span logits(pass.result.logits.row(row), static_cast<size_t>(pass.result.logits.columns()));
    std::vector<int32_t> history = request.prompt;
    const std::vector<int32_t>& answer = search.running()[i].tokens;
    history.insert(history.end(), answer.begin(), answer.end());
    LogSoftmax(logits, logprobs[i]);
    const std::span<const float> adjusted = s.sampler.Adjusted(logprobs[i], history);
    if (adjusted.data() == logprobs[i].data()) {
      logprobs[i].resize(adjusted.size());
    } else {
      logprobs[i].assign(adjusted.begin(), adjusted.end());
    }
  };
  if (!Place(s)) Fail(ErrorCode::kResource, "the KV cache has no room for the prompt");
  struct Leaving {
    Scheduler& scheduler;
    Sequence& s;
    ~Leaving() { scheduler.Leave(s); }
  } const leaving{*this, s};
  result.cached_tokens = s.computed;
  result.prompt_tokens = s.prompt - s.computed;
  while (s.computed < s.prompt) {
    begin();
    const int64_t count = std::min(s.prompt - s.computed, options_.prefill_rows);
    Append(s, pass, s.kv, s.computed,
           std::span(request.prompt).subspan(static_cast<size_t>(s.computed), static_cast<size_t>(count)));
    if (s.computed + count == s.prompt) pass.logit_rows = {static_cast<int32_t>(count - 1)};
    transformer_.Forward(pass);
    kv_.Commit(s.kv, count);
    s.computed += count;
  }
  result.prompt_ms = Millis(Clock::now() - start);
  read(0, 0);
  std::ranges::fill(std::span(logprobs).subspan(1), logprobs[0]);

  Places places(kv_);
  std::vector<KvCache::Id> parents(search.running().size(), s.kv);
  int64_t length = s.slots_before + s.prompt;
  places.Follow(parents, length);
  while (search.Advance(logprobs)) {
    parents.clear();
    for (const BeamSearch::Running& beam : search.running())
      parents.push_back(places[static_cast<size_t>(beam.parent)]);
    places.Follow(parents, length);
    begin();
    for (size_t i = 0; i < parents.size(); ++i) {
      Append(s, pass, places[i], length - s.slots_before, std::span(search.running()[i].tokens).last(1));
      pass.logit_rows.push_back(static_cast<int32_t>(i));
    }
    const Clock::time_point pass_start = Clock::now();
    transformer_.Forward(pass);
    CommitAll(pass);
    ++length;
    logprobs.resize(parents.size());
    for (size_t i = 0; i < parents.size(); ++i) read(i, static_cast<int64_t>(i));
    if (result.pass_ms.size() < DecodeResult::kMostPassTimes)
      result.pass_ms.push_back(Millis(Clock::now() - pass_start));
    ++result.decode_tokens;
  }
  result.decode_ms = Millis(Clock::now() - start) - result.prompt_ms;
  return search.Ended();
}

}  // namespace cambium
