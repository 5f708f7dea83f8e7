#include "server/formats.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace cambium::server {

Json UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"completion_tokens_details",
           {{"accepted_prediction_tokens", usage.accepted}, {"rejected_prediction_tokens", usage.rejected}}}};
}

std::string SseEvent(const Json& data) { return "data: " + Dump(data) + "\n\n"; }

std::string_view OpenAiReason(FinishReason reason) {
  // "repetition" only where the request asked for the guard: clients that know OpenAI's reasons alone meet no other.
  if (reason == FinishReason::kRepetition) return Name(reason);
  return reason == FinishReason::kStop ? "stop" : "length";
}

double ShownLogprob(float logprob) { return std::max(-9999.0, static_cast<double>(logprob)); }

Json TokenJson(const Model& model, const TokenLogprob& token) {
  const std::string piece = model.Piece(token.id);
  Json bytes = Json::array();
  for (const char byte : piece) bytes.push_back(static_cast<unsigned char>(byte));
  return {{"token", piece}, {"logprob", ShownLogprob(token.logprob)}, {"bytes", std::move(bytes)}};
}

Json CallsJson(const std::vector<ToolCall>& calls) {
  Json list = Json::array();
  for (const ToolCall& call : calls) {
    list.push_back(
        {{"id", call.id}, {"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  return list;
}

Json TraceNotes::PassNote(const DraftTrace& pass) const {
  Json tree = Json::array();
  for (const DraftTrace::Node& node : pass.nodes) {
    tree.push_back({{"id", node.id},
                    {"text", model_.Piece(node.id)},
                    {"parent", node.parent},
                    {"drafter", node.drafter},
                    {"probability", std::round(1000 * node.probability) / 1000},
                    {"kept", node.accepted}});
  }
  return {{"drafted", pass.nodes.size()},
          {"kept", std::ranges::count_if(pass.nodes, &DraftTrace::Node::accepted)},
          {"root", pass.root},
          {"drawn", {{"id", pass.drawn}, {"text", model_.Piece(pass.drawn)}}},
          {"tree", std::move(tree)}};
}

void TraceNotes::Note(size_t answer, const Event& event) {
  if (!wanted_) return;
  if (event.kind == Event::Kind::kToken) {
    notes_[answer].push_back({{"id", event.id}, {"origin", event.origin}, {"text", event.text}});
  } else if (event.kind == Event::Kind::kPass) {
    notes_[answer].push_back(PassNote(*event.pass));
  } else if (event.kind == Event::Kind::kFinished) {
    if (!event.text.empty()) notes_[answer].push_back({{"text", event.text}});
    const DraftReport& draft = event.generation->draft;
    const Timings& timings = event.generation->timings;
    drafters_ = draft.drafters;
    report_ = {{"tokens", event.generation->ids.size()}, {"passes", draft.passes},
               {"drafted", draft.num_draft_tokens},      {"accepted", draft.num_accepted_tokens},
               {"cached_tokens", timings.cached_tokens}, {"queue_ms", timings.queue_ms},
               {"prompt_ms", timings.prompt_ms},         {"decode_ms", timings.decode_ms},
               {"decode_tokens", timings.decode_tokens}, {"draft_ms", draft.draft_ms},
               {"verify_ms", draft.verify_ms},           {"plain_ms", draft.plain_ms}};
    const double spent = draft.draft_ms + draft.verify_ms;
    if (spent > 0 && draft.plain_ms > 0) {
      report_["speedup"] = static_cast<double>(timings.decode_tokens) * draft.plain_ms / spent;
    }
  }
}

void TraceNotes::Attach(size_t answer, Json& chunk) {
  if (!notes_[answer].empty()) chunk["cambium"]["trace"] = std::exchange(notes_[answer], Json::array());
  if (report_.is_null()) return;
  chunk["cambium"]["drafters"] = std::exchange(drafters_, nullptr);
  chunk["cambium"]["report"] = std::exchange(report_, nullptr);
}

TimingNotes::Times TimingNotes::Of(const Generation& generation) {
  const Timings& t = generation.timings;
  return {t.prompt_tokens,
          t.cached_tokens,
          std::ssize(generation.ids),
          generation.draft.num_draft_tokens,
          generation.draft.num_accepted_tokens,
          t.prompt_ms,
          t.decode_ms};
}

Json TimingNotes::Show(const Times& t) {
  const auto over = [](double value, double by) { return by > 0 ? value / by : 0; };
  const auto prompt = static_cast<double>(t.prompt), drawn = static_cast<double>(t.drawn);
  return {{"cache_n", t.cached},
          {"prompt_n", t.prompt},
          {"prompt_ms", t.prompt_ms},
          {"prompt_per_token_ms", over(t.prompt_ms, prompt)},
          {"prompt_per_second", over(1000 * prompt, t.prompt_ms)},
          {"predicted_n", t.drawn},
          {"predicted_ms", t.drawn_ms},
          {"predicted_per_token_ms", over(t.drawn_ms, drawn)},
          {"predicted_per_second", over(1000 * drawn, t.drawn_ms)},
          {"draft_n", t.drafted},
          {"draft_n_accepted", t.kept}};
}

void TimingNotes::Note(size_t answer, const Event& event) {
  if (answers_.empty()) return;
  Times& t = answers_[answer];
  if (event.kind == Event::Kind::kPrompt) {
    t.prompt = event.prompt->done - event.prompt->cached;
    t.cached = event.prompt->cached;
    t.prompt_ms = event.prompt->ms;
  } else if (event.kind == Event::Kind::kPass) {
    t.drafted += std::ssize(event.pass->nodes);
    t.kept += std::ranges::count_if(event.pass->nodes, &DraftTrace::Node::accepted);
  } else if (event.kind == Event::Kind::kToken) {
    const auto now = std::chrono::steady_clock::now();
    if (t.drawn++ == 0) first_[answer] = now;
    t.drawn_ms = std::chrono::duration<double, std::milli>(now - first_[answer]).count();
  }
}

void TimingNotes::Attach(size_t answer, Json& chunk) const {
  if (!answers_.empty()) chunk["timings"] = Show(answers_[answer]);
}

Json ChoicesFormat::Head(const char* object) const {
  return {{"id", ask_->id}, {"object", object}, {"created", ask_->created}, {"model", ask_->model}};
}

void ChoicesFormat::Note(size_t answer, const Event& event) {
  trace_.Note(answer, event);
  timings_.Note(answer, event);
  if (event.kind == Event::Kind::kPrompt && ask_->progress) {
    const PromptProgress& p = *event.prompt;
    progress_ = {{"total", p.total}, {"cache", p.cached}, {"processed", p.done}, {"time_ms", p.ms}};
  }
  if (event.kind == Event::Kind::kToken) ++tokens_;
}

std::string ChoicesFormat::WholeOf(Json choices, const std::vector<Generation>& generations) const {
  Json answer = Head(objects_.whole);
  answer["choices"] = std::move(choices);
  answer["usage"] = UsageJson(UsageOf(*ask_, generations));
  if (ask_->timings) answer["timings"] = TimingNotes::Show(TimingNotes::Of(generations.front()));
  return Dump(answer);
}

std::string ChoicesFormat::ChunkOf(size_t answer, Json choice) {
  Json chunk = Head(objects_.chunk);
  chunk["choices"] = Json::array({std::move(choice)});
  if (ask_->usage_everywhere) {
    Usage usage;
    for (const auto& prompt : ask_->prompts) usage.prompt_tokens += std::ssize(prompt);
    usage.completion_tokens = tokens_;
    chunk["usage"] = UsageJson(usage);
  }
  trace_.Attach(answer, chunk);
  timings_.Attach(answer, chunk);
  if (!progress_.is_null()) chunk["prompt_progress"] = std::exchange(progress_, nullptr);
  return SseEvent(chunk);
}

std::string ChoicesFormat::Closing(const std::vector<Generation>& generations) {
  std::string events;
  if (ask_->include_usage) {
    Json last = Head(objects_.chunk);
    last["choices"] = Json::array();
    last["usage"] = UsageJson(UsageOf(*ask_, generations));
    events = SseEvent(last);
  }
  return events + "data: [DONE]\n\n";
}

std::string PiecesFormat::OnEvent(size_t, const Event& event) {
  if (event.kind == Event::Kind::kPass || event.kind == Event::Kind::kPrompt) return "";
  std::string events = Pieces(parser_.Push(event.text));
  if (event.kind == Event::Kind::kFinished) events += Pieces(parser_.Finish());
  return events;
}

}  // namespace cambium::server
