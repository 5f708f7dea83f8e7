#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>

#include "arrays.h"
#include "handles.h"
#include "service.h"

namespace cambium::python {
namespace {

using Free = nb::call_guard<nb::gil_scoped_release>;
using NativeEngine = Owned<Service>;

std::vector<std::pair<int32_t, float>> Pairs(const std::vector<TokenLogprob>& top) {
  std::vector<std::pair<int32_t, float>> pairs;
  for (const TokenLogprob& t : top) pairs.emplace_back(t.id, t.logprob);
  return pairs;
}

std::vector<std::vector<std::pair<int32_t, float>>> Pairs(const std::vector<std::vector<TokenLogprob>>& tops) {
  std::vector<std::vector<std::pair<int32_t, float>>> all;
  for (const auto& top : tops) all.push_back(Pairs(top));
  return all;
}

std::vector<float> Values(const std::vector<TokenLogprob>& logprobs) {
  std::vector<float> values;
  for (const TokenLogprob& t : logprobs) values.push_back(t.logprob);
  return values;
}

nb::dict TimingsOf(const Timings& t) {
  nb::dict d;
  d["queue_ms"] = t.queue_ms;
  d["preemptions"] = t.preemptions;
  d["prompt_tokens"] = t.prompt_tokens;
  d["cached_tokens"] = t.cached_tokens;
  d["prompt_ms"] = t.prompt_ms;
  d["decode_tokens"] = t.decode_tokens;
  d["decode_ms"] = t.decode_ms;
  return d;
}

nb::dict DraftOf(const DraftReport& r) {
  nb::dict d;
  d["num_drafts"] = r.num_drafts;
  d["num_draft_tokens"] = r.num_draft_tokens;
  d["num_accepted_tokens"] = r.num_accepted_tokens;
  d["num_accepted_tokens_per_pos"] = r.num_accepted_tokens_per_pos;
  d["passes"] = r.passes;
  d["draft_ms"] = r.draft_ms;
  d["verify_ms"] = r.verify_ms;
  d["drafters"] = r.drafters;
  return d;
}

nb::dict ResultOf(Generation&& g) {
  nb::dict d;
  d["text"] = g.text;
  d["ids"] = g.ids;
  d["finish_reason"] = std::string(Name(g.finish_reason));
  d["stopped_by"] = g.stopped_by;
  d["logprobs"] = Values(g.logprobs);
  d["top_logprobs"] = Pairs(g.top);
  d["prompt_top_logprobs"] = Pairs(g.prompt_top);
  d["timings"] = TimingsOf(g.timings);
  d["draft"] = DraftOf(g.draft);
  if (!g.prompt_logprobs.empty()) d["prompt_logprobs"] = ToArray(Values(g.prompt_logprobs));
  if (!g.embedding.empty()) d["embedding"] = ToArray(std::move(g.embedding));
  return d;
}

nb::dict StatsOf(NativeEngine& engine) {
  const EngineStats s = engine->engine().stats();
  nb::dict d;
  d["waiting"] = s.waiting;
  d["running"] = s.running;
  d["steps"] = s.steps;
  d["rows"] = s.rows;
  d["preemptions"] = s.preemptions;
  d["cache_pages"] = s.cache_pages;
  d["cache_used"] = s.cache_used;
  d["prefix_queries"] = s.prefix_queries;
  d["prefix_hits"] = s.prefix_hits;
  return d;
}

// Waits for what `poll` returns, with Python's signals looked after.
template <class Poll>
auto Wait(Stream& stream, const Poll& poll, bool wait) {
  for (;;) {
    decltype(poll(0)) found;
    bool ended = false;
    {
      const nb::gil_scoped_release free;
      found = poll(wait ? kSignalsMs : 0);
      ended = stream.ended();
    }
    if (found || ended || !wait) return found;
    CheckSignals();
  }
}

void SetVerify(Request& request, const std::string& verify) {
  using Verify = DraftOptions::Verify;
  for (const auto& [name, value] : {std::pair("match", Verify::kMatch), std::pair("rejection", Verify::kRejection),
                                    std::pair("typical", Verify::kTypical)}) {
    if (verify != name) continue;
    request.drafting.verify = value;
    return;
  }
  Fail(ErrorCode::kUsage, "verify is \"", verify, "\", expected match, rejection or typical");
}

void BindRequest(nb::module_& m) {
  const auto sampling = [](auto member) {
    return std::pair(
        [member](const Request& r) { return r.sampling.*member; },
        [member](Request& r, std::remove_cvref_t<decltype(r.sampling.*member)> value) { r.sampling.*member = value; });
  };
  nb::class_<Request> request(m, "Request");
  const auto sampled = [&](const char* name, auto member) {
    const auto [get, set] = sampling(member);
    request.def_prop_rw(name, get, set);
  };
  request.def(nb::init<>())
      .def(
          "set_prompt", [](Request& r, const Ids& ids) { r.prompt.assign(SpanOf(ids).begin(), SpanOf(ids).end()); },
          nb::arg("ids").noconvert())
      .def(
          "set_prompt", [](Request& r, std::vector<int32_t> ids) { r.prompt = std::move(ids); }, nb::arg("ids"))
      .def("add_adapter",
           [](Request& r, const Adapter& adapter, float scale) {
             r.adapters.push_back({adapter, scale});
           })
      .def("set_constraint", [](Request& r, const Constraint& constraint) { r.constraint = constraint; })
      .def_rw("max_tokens", &Request::max_tokens)
      .def_rw("min_tokens", &Request::min_tokens)
      .def_rw("stop", &Request::stop)
      .def_rw("ignore_end", &Request::ignore_end)
      .def_rw("loop_guard", &Request::loop_guard)
      .def_rw("top_logprobs", &Request::top_logprobs)
      .def_rw("prompt_logprobs", &Request::prompt_logprobs)
      .def_rw("embed", &Request::embed)
      .def_rw("cache_salt", &Request::cache_salt)
      .def_prop_rw(
          "draft", [](const Request& r) { return r.drafting.drafters; },
          [](Request& r, std::vector<std::string> drafters) { r.drafting.drafters = std::move(drafters); })
      .def_prop_rw(
          "draft_rows", [](const Request& r) { return r.drafting.max_rows; },
          [](Request& r, int64_t rows) { r.drafting.max_rows = rows; })
      .def("set_verify", &SetVerify);
  sampled("temperature", &SamplingOptions::temperature);
  sampled("top_k", &SamplingOptions::top_k);
  sampled("top_p", &SamplingOptions::top_p);
  sampled("min_p", &SamplingOptions::min_p);
  sampled("repeat_penalty", &SamplingOptions::repeat_penalty);
  sampled("repeat_last_n", &SamplingOptions::repeat_last_n);
  sampled("presence_penalty", &SamplingOptions::presence_penalty);
  sampled("frequency_penalty", &SamplingOptions::frequency_penalty);
  sampled("logit_bias", &SamplingOptions::logit_bias);
  sampled("seed", &SamplingOptions::seed);
}

EngineOptions OptionsOf(int64_t context, bool exact, const std::string& kv_type, int64_t parallel,
                        int64_t cache_tokens, bool batch) {
  EngineOptions options;
  options.context = context;
  options.exact = exact;
  if (kv_type == "f16") options.kv_type = KvType::kF16;
  if (kv_type == "f32") options.kv_type = KvType::kF32;
  if (kv_type == "q8") options.kv_type = KvType::kQ8;
  if (!kv_type.empty() && options.kv_type == KvType::kDefault) {
    Fail(ErrorCode::kUsage, "kv_type is \"", kv_type, "\", expected f16, f32 or q8");
  }
  options.parallel = parallel;
  options.cache_tokens = cache_tokens;
  options.batch = batch;
  return options;
}

}  // namespace

void BindEngine(nb::module_& m) {
  BindRequest(m);
  nb::class_<Piece>(m, "Event", "What one pass told of a request.")
      .def_ro("text", &Piece::text, "Whole characters that may be shown now.")
      .def_ro("id", &Piece::id, "The token; -1 where the end let go of text that was held back.")
      .def_ro("origin", &Piece::origin, "The drafter that proposed it, -1: none, -2: drawn against a draft.")
      .def_ro("logprob", &Piece::logprob)
      .def_prop_ro("top_logprobs", [](const Piece& piece) { return Pairs(piece.top); });

  nb::class_<Stream>(m, "Stream")
      .def(
          "next",
          [](Stream& stream, bool wait) {
            return Wait(
                stream, [&](int ms) { return stream.Next(ms); }, wait);
          },
          nb::arg("wait") = true)
      .def("result",
           [](Stream& stream) {
             for (;;) {
               std::optional<Generation> found;
               {
                 const nb::gil_scoped_release free;
                 found = stream.Result(kSignalsMs);
               }
               if (found) return ResultOf(std::move(*found));
               CheckSignals();
             }
           })
      .def_prop_ro("ended", &Stream::ended)
      .def("wake", &Stream::Wake);

  nb::class_<NativeEngine>(m, "Engine")
      .def_static(
          "make",
          [](const NativeModel& model, int64_t context, bool exact, const std::string& kv_type, int64_t parallel,
             int64_t cache_tokens, bool batch) {
            return NativeEngine(
                std::make_unique<Service>(model.get(), OptionsOf(context, exact, kv_type, parallel, cache_tokens, batch)));
          },
          nb::arg("model"), nb::arg("context"), nb::arg("exact"), nb::arg("kv_type"), nb::arg("parallel"),
          nb::arg("cache_tokens"), nb::arg("batch"), Free())
      .def(
          "submit",
          [](NativeEngine& engine, const Request& request) {
            const Service::Ticket ticket = engine->Submit(request);
            return std::pair(ticket.id, ticket.stream);
          },
          Free())
      .def(
          "cancel", [](NativeEngine& engine, RequestId id) { engine->Cancel(id); }, Free())
      .def("close", &NativeEngine::Close, Free())
      .def_prop_ro("closed", &NativeEngine::closed)
      .def_prop_ro("context", [](NativeEngine& engine) { return engine->engine().context(); })
      .def("stats", &StatsOf);
}

}  // namespace cambium::python
