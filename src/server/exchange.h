#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"
#include "server/ask.h"
#include "server/engine_loop.h"

namespace cambium::server {

struct Usage {
  int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
  int64_t accepted = 0, rejected = 0;  // drafted tokens
};
Usage UsageOf(const Ask& ask, const std::vector<Generation>& generations);

// How an API writes an answer: all at once, or in the pieces of a stream. Whole is called on the helper, the others on
// the thread that steps.
class AnswerFormat {
 public:
  explicit AnswerFormat(std::shared_ptr<const Ask> ask) : ask_(std::move(ask)) {}
  virtual ~AnswerFormat() = default;
  virtual std::string Whole(const std::vector<Generation>& generations) = 0;
  virtual std::string Opening() { return ""; }                         // before any event
  virtual std::string OnEvent(size_t answer, const Event& event) = 0;  // the last is kFinished, with its generation
  virtual std::string Closing(const std::vector<Generation>& generations) = 0;
  virtual std::string Failure(const ApiError& error);  // an event that says so, and the end of the stream
  virtual HttpResponse Refusal(const ApiError& error) { return ToResponse(error); }

 protected:
  std::shared_ptr<const Ask> ask_;
};

// An answer under way: its generations in the engine, and the client that waits for it.
class Exchange : public Listener, public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(Service& service, std::shared_ptr<Reply> reply, std::shared_ptr<const Ask> ask,
           std::unique_ptr<AnswerFormat> format);
  // Asks the engine; from here on it answers by itself.
  void Start(std::vector<Request> requests);

  void OnTaken() override;
  void OnRefused(std::exception_ptr why) override;
  void OnEvent(size_t answer, const Event& event) override;

 private:
  void Count(size_t answer, const Event& event);
  std::string Fail(std::exception_ptr caught);
  void Finish();

  Service& service_;
  const std::shared_ptr<Reply> reply_;
  const std::shared_ptr<const Ask> ask_;
  const std::unique_ptr<AnswerFormat> format_;
  std::vector<int64_t> max_tokens_;
  std::atomic<EngineLoop::Ticket> ticket_ = 0;  // 0: not yet submitted
  std::atomic<bool> left_ = false;              // the client is gone

  // On the thread that steps:
  std::vector<Generation> generations_;
  std::vector<std::chrono::steady_clock::time_point> last_token_;
  size_t ended_ = 0;
  bool failed_ = false;
};

}  // namespace cambium::server
