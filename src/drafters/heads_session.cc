#include "drafters/heads_session.h"

#include <algorithm>

namespace cambium {

HeadsRunner::HeadsRunner(Heads& heads, Transformer& target, KvCache& kv, Compute compute, int64_t max_depth,
                         int64_t tokens)
    : heads(heads),
      kv(kv),
      width(target.config().hidden),
      max_depth(max_depth),
      pool_(target.pool()),
      compute_(compute),
      tokens_(tokens),
      layer_(heads.AddLayers(kv)) {}

HeadsRunner::~HeadsRunner() {
  if (layer_ >= 0) kv.DropLayers(layer_);
}

HeadsRunner::Last HeadsRunner::Run(int64_t depth, const HeadRows& rows) {
  const int64_t count = rows.input.rows();
  HeadStep step{rows.input, rows.tokens, rows.lengths};
  if (keeps_kv()) {
    step.kv = &kv;
    step.kv_layer = layer_ + (heads.chained() ? 0 : depth);
    step.sequences = rows.sequences;
    step.pasts = rows.pasts;
  }
  Tensor features = workspace.New({count, width});
  Tensor state = heads.chained() ? workspace.New({count, width}) : Tensor();
  heads.Forward({pool_, workspace, compute_, nullptr}, depth, step, features, state);
  return {LastOf(features, rows.lengths), state ? LastOf(state, rows.lengths) : Tensor()};
}

std::vector<std::vector<TopToken>> HeadsRunner::Read(int64_t depth, Tensor features, size_t choices) {
  const PackedMatrix& readout = heads.readout(depth);
  const Workspace::Mark mark = workspace.GetMark();
  Tensor logits = workspace.New({features.rows(), readout.out()});
  const Product product[] = {{&readout, logits}};
  MatMul(pool_, workspace, compute_, features, product);
  // A draft vocabulary ascends, so that what no text has a token for is at its end, as at the end of all rows.
  const std::span<const int32_t> ids = heads.draft_tokens();
  const int64_t below = ids.empty() ? tokens_ : std::ranges::lower_bound(ids, tokens_) - ids.begin();
  const size_t known = static_cast<size_t>(std::min(below, readout.out()));
  std::vector<std::vector<TopToken>> top(static_cast<size_t>(features.rows()));
  pool_.Run(features.rows(), [&](int64_t row, int) {
    std::vector<TopToken>& own = top[static_cast<size_t>(row)];
    own = TopTokens({logits.row(row), known}, choices);
    for (TopToken& choice : own) choice.token = heads.DraftToken(choice.token);
  });
  workspace.Release(mark);
  return top;
}

Tensor HeadsRunner::LastOf(Tensor rows, std::span<const int64_t> lengths) {
  if (rows.rows() == std::ssize(lengths)) return rows;
  Tensor last = workspace.New({std::ssize(lengths), width});
  int64_t end = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    end += lengths[i];
    std::copy_n(rows.row(end - 1), width, last.row(static_cast<int64_t>(i)));
  }
  return last;
}

HeadsSession::HeadsSession(HeadsRunner& runner, const DraftText& text)
    : runner_(runner),
      borrowed_(!runner.keeps_kv() || text.slots_before == 0),
      sequence_(borrowed_ ? text.sequence : runner.kv.Open()),
      computed_(borrowed_ ? text.known : 0) {
  Check(borrowed_ || text.known == 0, "what a session keeps to itself is not known");
}

HeadsSession::~HeadsSession() {
  if (!borrowed_) runner_.kv.Close(sequence_);
}

void HeadsSession::Observe(const Observation& o) {
  // Rows wait for a proposal, which runs them with its own; not too many, so that a prompt can be published.
  constexpr int64_t kMostWaiting = 128;
  if (lost_) return;
  const Tensor rows = runner_.heads.after_layer() < 0 ? o.hidden : o.after_layer;
  int64_t from = std::ssize(o.tokens) - 1;  // without a block nothing looks further back than the last row
  if (runner_.keeps_kv()) {
    from = computed_ + waiting() - o.position;
    Check(from >= 0, "a text's tokens are observed in their order");
  } else {
    Ran(waiting());
  }
  for (; from < std::ssize(o.tokens); ++from) {
    const float* const row = rows.row(from);
    states_.insert(states_.end(), row, row + runner_.width);
    behind_.push_back(from + 1 < std::ssize(o.tokens) ? o.tokens[static_cast<size_t>(from) + 1] : o.next);
  }
  if (runner_.keeps_kv() && waiting() >= kMostWaiting) CatchUp();
}

int64_t HeadsSession::kept() const {
  if (!runner_.keeps_kv()) return DraftSession::kept();
  return borrowed_ ? computed_ : 0;
}

bool HeadsSession::Room(int64_t end) const {
  KvCache& kv = runner_.kv;
  return !runner_.keeps_kv() || end <= kv.length(sequence_) || kv.TryGrow(sequence_, end);
}

void HeadsSession::AppendTo(HeadRows& rows, int64_t count) const {
  rows.tokens.insert(rows.tokens.end(), behind_.begin(), behind_.begin() + count);
  rows.lengths.push_back(count);
  rows.sequences.push_back(sequence_);
  rows.pasts.push_back(computed_);
}

void HeadsSession::Ran(int64_t count) {
  computed_ += count;
  states_.erase(states_.begin(), states_.begin() + count * runner_.width);
  behind_.erase(behind_.begin(), behind_.begin() + count);
}

void HeadsSession::CatchUp() {
  constexpr int64_t kChunk = 512;
  lost_ = !Room(computed_ + waiting());
  if (lost_) {
    states_.clear();
    behind_.clear();
  }
  while (waiting() > 1) {  // a proposal begins with the last one
    const int64_t count = std::min(kChunk, waiting() - 1);
    runner_.workspace.Reset();
    HeadRows rows;
    AppendTo(rows, count);
    rows.input = Tensor(states_.data(), {count, runner_.width});
    for (int64_t d = 0; d < (runner_.heads.chained() ? 1 : runner_.max_depth); ++d) runner_.Run(d, rows);
    Ran(count);
  }
}

}  // namespace cambium
