#include "decode/batch.h"

#include <algorithm>
#include <iterator>

namespace cambium {
namespace {

struct Answer {
  size_t prompt = 0;
  int sequence = -1;
  std::vector<int32_t> history;  // the prompt and everything drawn
  std::vector<int32_t> rows;     // not computed yet
};

}  // namespace

void GenerateBatch(Transformer& transformer, const BatchRequest& request) {
  Check(request.width > 0 && request.max_tokens > 0, "a batch has answers, and they have tokens");
  int64_t before = 0, longest = 0;
  for (const Graft* graft : request.grafts) before += graft->slots_before();
  if (before + request.context > transformer.config().context) {
    Fail(ErrorCode::kUsage, "a batch's context of ", before + request.context, " is beyond the model's ",
         transformer.config().context, " positions");
  }
  for (const std::vector<int32_t>& prompt : request.prompts) {
    Check(!prompt.empty() && static_cast<int64_t>(prompt.size()) < request.context, "a prompt leaves room for its answer");
    longest = std::max(longest, static_cast<int64_t>(prompt.size()));
  }
  const int64_t width = std::min(request.width, static_cast<int64_t>(request.prompts.size()));
  const int64_t slots = before + std::min(request.context, longest + request.max_tokens) + KvLayer::kPageSlots;
  KvCache kv(transformer.config(), DType::kF16, width * slots);
  Sampler sampler(request.sampling);
  const auto going = [&](const Answer& answer) {
    const int64_t length = std::ssize(answer.history), asked = std::ssize(request.prompts[answer.prompt]);
    return length - asked < request.max_tokens && length < request.context &&
           !(request.is_end && request.is_end(answer.history.back()));
  };
  std::vector<Answer> answers;
  size_t next = 0;
  while (next < request.prompts.size() || !answers.empty()) {
    int64_t rows = static_cast<int64_t>(answers.size());
    while (next < request.prompts.size() && static_cast<int64_t>(answers.size()) < width && rows < request.prefill_rows) {
      const std::vector<int32_t>& prompt = request.prompts[next];
      answers.push_back({next++, kv.NewSequence(), prompt, prompt});
      transformer.BeginSequence(kv, answers.back().sequence, request.grafts);
      rows += static_cast<int64_t>(prompt.size());
    }
    Pass pass;
    pass.compute = request.compute;
    pass.kv = &kv;
    for (const Answer& answer : answers) {
      pass.Append(answer.sequence, kv.length(answer.sequence), answer.rows).grafts = request.grafts;
      pass.logit_rows.push_back(static_cast<int32_t>(pass.rows()) - 1);
    }
    transformer.Forward(pass);
    CommitAll(pass);
    for (size_t i = 0; i < answers.size(); ++i) {
      Answer& answer = answers[i];
      const float* const logits = pass.logits.row(static_cast<int64_t>(i));
      const int32_t token = sampler.Draw({logits, static_cast<size_t>(pass.logits.columns())}, answer.history,
                                         static_cast<int64_t>(answer.history.size()));
      answer.history.push_back(token);
      answer.rows = {token};
    }
    const auto finished = std::stable_partition(answers.begin(), answers.end(), going);
    const std::vector<Answer> done(std::make_move_iterator(finished), std::make_move_iterator(answers.end()));
    answers.erase(finished, answers.end());
    for (const Answer& answer : done) kv.Free(answer.sequence);
    for (const Answer& answer : done) {
      const int64_t asked = std::ssize(request.prompts[answer.prompt]);
      request.on_answer(answer.prompt, {answer.history.begin() + asked, answer.history.end()});
    }
  }
}

}  // namespace cambium
