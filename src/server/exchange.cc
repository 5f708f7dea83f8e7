#include "server/exchange.h"

namespace cambium::server {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point then) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - then).count();
}

HttpResponse StreamHead() {
  HttpResponse head;
  head.type = "text/event-stream; charset=utf-8";
  head.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  return head;
}

}  // namespace

Usage UsageOf(const Ask& ask, const std::vector<Generation>& generations) {
  Usage usage;
  for (size_t i = 0; i < generations.size(); ++i) {
    const Generation& generation = generations[i];
    usage.completion_tokens += std::ssize(generation.ids);
    usage.accepted += generation.draft.num_accepted_tokens;
    usage.rejected += generation.draft.num_draft_tokens - generation.draft.num_accepted_tokens;
    if (i % static_cast<size_t>(ask.choices) != 0) continue;  // the others share its prompt
    usage.prompt_tokens += std::ssize(ask.prompts[ask.PromptOf(i)]);
    usage.cached_tokens += generation.timings.cached_tokens;
  }
  return usage;
}

std::string AnswerFormat::Failure(const ApiError& error) {
  return "data: " + ErrorJson(error) + "\n\ndata: [DONE]\n\n";
}

Exchange::Exchange(Service& service, std::shared_ptr<Reply> reply, std::shared_ptr<const Ask> ask,
                   std::unique_ptr<AnswerFormat> format)
    : service_(service),
      reply_(std::move(reply)),
      ask_(std::move(ask)),
      format_(std::move(format)),
      generations_(ask_->answers()),
      last_token_(ask_->answers()) {}

void Exchange::Start(std::vector<Request> requests) {
  for (const Request& request : requests) max_tokens_.push_back(request.max_tokens);
  reply_->WhenGone([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr) return;
    self->left_ = true;
    self->service_.loop.Cancel(self->ticket_);
  });
  for (size_t i = 0; i < requests.size(); ++i) {
    service_.watch.Began({this, i}, {ask_->id, ask_->model, std::ssize(requests[i].prompt), requests[i].max_tokens, 0,
                                     0, ask_->arrived});
  }
  ticket_ = service_.loop.Submit(std::move(requests), shared_from_this());
  if (left_) service_.loop.Cancel(ticket_);
}

void Exchange::OnTaken() {
  if (!ask_->stream) return;
  reply_->Ping(ask_->ping_seconds, ": ping\n\n");
  reply_->Begin(StreamHead());
  reply_->Write(format_->Opening());
}

void Exchange::OnRefused(std::exception_ptr why) {
  for (size_t i = 0; i < generations_.size(); ++i) service_.watch.Ended({this, i}, {});
  reply_->Send(format_->Refusal(ToApiError(why)));
}

void Exchange::Count(size_t answer, const Event& event) {
  Metrics& metrics = service_.metrics;
  if (event.kind == Event::Kind::kToken) {
    const auto now = std::chrono::steady_clock::now();
    auto& last = last_token_[answer];
    if (last.time_since_epoch().count() == 0) {
      metrics.FirstToken(SecondsSince(ask_->arrived));
    } else {
      metrics.NextToken(std::chrono::duration<double>(now - last).count());
    }
    last = now;
    service_.watch.Drew({this, answer}, event.origin >= 0);
  }
  if (event.kind != Event::Kind::kFinished) return;
  service_.watch.Ended({this, answer}, *event.generation);
  static constexpr std::string_view kReasons[] = {"stop", "length", "abort", "error", "repetition"};
  Metrics::Ended ended;
  ended.reason = kReasons[static_cast<size_t>(event.generation->finish_reason)];
  ended.prompt_tokens = std::ssize(ask_->prompts[ask_->PromptOf(answer)]);
  ended.first_of_prompt = answer % static_cast<size_t>(ask_->choices) == 0;
  ended.max_tokens = max_tokens_[answer];
  ended.n = ask_->choices;
  ended.seconds = SecondsSince(ask_->arrived);
  ended.generation = event.generation;
  metrics.Finished(ended);
}

// What a stream says then; a plain answer is sent. The other generations of the request end too.
std::string Exchange::Fail(std::exception_ptr caught) {
  failed_ = true;
  ApiError error{503, "the server shuts down and has ended the request", "", "abort"};
  if (caught) error = ToApiError(caught);
  error.status = std::max(error.status, 500);
  service_.loop.Cancel(ticket_);
  if (ask_->stream) return format_->Failure(error);
  reply_->Send(format_->Refusal(error));
  return "";
}

void Exchange::OnEvent(size_t answer, const Event& event) {
  Count(answer, event);
  const bool finished = event.kind == Event::Kind::kFinished;
  const bool broken = finished && (event.generation->finish_reason == FinishReason::kFailed ||
                                   event.generation->finish_reason == FinishReason::kCancelled);
  std::string bytes;
  if (broken && !failed_) {
    bytes = Fail(event.error);
  } else if (!failed_ && ask_->stream) {
    bytes = format_->OnEvent(answer, event);
  }
  if (finished) {
    generations_[answer] = *event.generation;
    ++ended_;
  }
  const bool last = ended_ == generations_.size();
  if (last && ask_->stream && !failed_) bytes += format_->Closing(generations_);
  if (!bytes.empty()) reply_->Write(bytes);
  if (last) Finish();
}

void Exchange::Finish() {
  if (ask_->stream) reply_->End();
  if (ask_->stream || failed_) return;
  service_.helper.Post([self = shared_from_this()] {
    try {
      self->reply_->Send({200, self->format_->Whole(self->generations_)});
    } catch (...) {
      self->reply_->Send(self->format_->Refusal(ToApiError(std::current_exception())));
    }
  });
}

}  // namespace cambium::server
