// A beam search from a request to its answers.
#include "base/check_range.h"
#include "engine/impl.h"

namespace cambium {

Generation Engine::Impl::Search(const Request& request, const Sink& to) {
  CheckRange("beams", static_cast<double>(request.beams.count), 1, static_cast<double>(BeamSearch::kMostBeams));
  const DecodeRequest decode = ToDecode(request);
  DecodeResult result;
  Generation generation;
  std::vector<Beam> beams;
  {
    const std::lock_guard computing(m.compute);
    beams = scheduler->Search(decode, request.beams, result);
  }
  for (Beam& beam : beams) {
    Hypothesis& h = generation.beams.emplace_back();
    Utf8Stream utf8;
    for (const int32_t token : beam.tokens) h.text += utf8.Push(m.tokenizer.Piece(token));
    h.text += utf8.Finish();
    h.ids = std::move(beam.tokens);
    h.score = beam.score;
    h.ended = beam.end_token >= 0;
  }
  const Hypothesis& best = generation.beams.front();
  generation.text = best.text;
  generation.ids = best.ids;
  generation.origins.assign(best.ids.size(), Generation::kPlain);
  generation.finish_reason = best.ended ? FinishReason::kStop : FinishReason::kLength;
  if (best.ended) generation.stopped_by = m.tokenizer.Piece(beams.front().end_token);
  generation.timings.load_ms = m.info.load_ms;
  generation.timings.prompt_tokens = result.prompt_tokens;
  generation.timings.cached_tokens = result.cached_tokens;
  generation.timings.prompt_ms = result.prompt_ms;
  generation.timings.decode_tokens = result.decode_tokens;
  generation.timings.decode_ms = result.decode_ms;
  generation.timings.pass_ms = std::move(result.pass_ms);
  if (to) {
    Event event{0, Event::Kind::kFinished};
    event.text = generation.text;
    event.generation = &generation;
    to(event);
  }
  return generation;
}

}  // namespace cambium
