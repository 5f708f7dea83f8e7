#include "server/formats.h"

#include <algorithm>
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

std::string_view OpenAiReason(FinishReason reason) { return reason == FinishReason::kStop ? "stop" : "length"; }

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

void TraceNotes::Note(size_t answer, const Event& event) {
  if (!wanted_) return;
  if (event.kind == Event::Kind::kToken) {
    notes_[answer].push_back({{"id", event.id}, {"origin", event.origin}});
  } else if (event.kind == Event::Kind::kPass) {
    const auto kept = std::ranges::count_if(event.pass->nodes, &DraftTrace::Node::accepted);
    notes_[answer].push_back({{"drafted", event.pass->nodes.size()}, {"kept", kept}});
  } else {
    drafters_ = event.generation->draft.drafters;
  }
}

void TraceNotes::Attach(size_t answer, Json& chunk) {
  if (!notes_[answer].empty()) chunk["cambium"]["trace"] = std::exchange(notes_[answer], Json::array());
  if (!drafters_.empty()) chunk["cambium"]["drafters"] = std::exchange(drafters_, {});
}

}  // namespace cambium::server
