#include "io/answers.h"

#include <algorithm>
#include <string_view>

namespace cambium {
namespace {

using Marks = std::vector<TextMark>;
constexpr std::string_view kSpace = " \t\r\n";

// Reads the answers off the marks, message by message.
class Finder {
 public:
  Finder(const RenderedDialogue& rendered, const nlohmann::ordered_json& messages, const AnswerHabits& habits)
      : text_(rendered.text.text),
        marks_(rendered.text.marks),
        specials_(rendered.specials),
        messages_(messages),
        habits_(habits) {}

  std::vector<AnswerSpan> Run() {
    std::vector<bool> answered(messages_.size());
    for (size_t first = 0; first < marks_.size();) {
      const int32_t message = marks_[first].source;
      if (message < 0 || !IsAssistant(message) || answered[static_cast<size_t>(message)]) {
        ++first;
        continue;
      }
      answered[static_cast<size_t>(message)] = true;
      const size_t last = LastOf(first);
      answers_.push_back({BeginOf(first), EndOf(last), message});
      first = last + 1;
    }
    return std::move(answers_);
  }

 private:
  bool IsAssistant(int32_t message) const {
    const auto& one = messages_[static_cast<size_t>(message)];
    return one.is_object() && one.value("role", nlohmann::ordered_json()) == "assistant";
  }
  size_t EndBefore(size_t mark) const { return mark == 0 ? 0 : marks_[mark - 1].end; }

  // The first stop token in [begin, end); null if there is none.
  const RenderedDialogue::Special* StopIn(size_t begin, size_t end) const {
    auto at = std::lower_bound(specials_.begin(), specials_.end(), begin,
                               [](const auto& special, size_t place) { return special.begin < place; });
    for (; at != specials_.end() && at->begin < end; ++at) {
      if (habits_.is_stop(at->id)) return &*at;
    }
    return nullptr;
  }

  // The last mark of the answer that `first` begins. Behind a stop token the message goes on only where the template
  // gives the assistant the word again; other mentions of its words, such as a called function's name, are no answer.
  size_t LastOf(size_t first) const {
    size_t last = first;
    for (size_t next = first + 1; next < marks_.size(); ++next) {
      if (marks_[next].source == TextMark::kData) continue;
      if (marks_[next].source != marks_[first].source) break;
      const size_t end = marks_[last].end;
      if (const auto* stop = StopIn(end, marks_[next].begin); stop != nullptr) {
        const size_t again = habits_.cuts.empty() ? std::string::npos : text_.find(Beginning(), stop->end);
        if (again > marks_[next].begin) break;
      }
      last = next;
    }
    return last;
  }

  std::string_view Beginning() const { return std::string_view(habits_.prompt).substr(0, habits_.cuts.front()); }

  size_t BeginOf(size_t first) const {
    const size_t before = EndBefore(first), words = marks_[first].begin;
    const std::string_view window(text_.data() + before, words - before);
    if (!habits_.cuts.empty()) {
      if (const size_t at = window.rfind(Beginning()); at != window.npos) return AfterPrompt(before + at, first);
    }
    if (!habits_.after_question.empty() && window.starts_with(habits_.after_question)) {
      return before + habits_.after_question.size();
    }
    size_t begin = words;
    for (const auto& special : specials_) {
      if (special.begin >= before && special.end <= words) begin = special.end;
    }
    return begin;
  }

  // As much of the prompt as the dialogue has from `at` on: what it lacks or has otherwise is the answer's.
  size_t AfterPrompt(size_t at, size_t mark) const {
    while (mark < marks_.size() && marks_[mark].begin == marks_[mark].end) ++mark;
    const size_t words = mark < marks_.size() ? marks_[mark].begin : text_.size();
    size_t length = habits_.cuts.front();
    for (const size_t cut : habits_.cuts) {
      if (at + cut <= words && text_.compare(at, cut, habits_.prompt, 0, cut) == 0) length = cut;
    }
    return at + length;
  }

  // With the stop token behind the words. Where there is none, calls at the end of the text keep what closes them.
  size_t EndOf(size_t last) const {
    const size_t words = marks_[last].end, next = last + 1 < marks_.size() ? marks_[last + 1].begin : text_.size();
    if (const auto* stop = StopIn(words, next); stop != nullptr) return stop->end;
    const bool calls = messages_[static_cast<size_t>(marks_[last].source)].contains("tool_calls");
    if (!calls || next != text_.size()) return words;
    return std::max(words, text_.find_last_not_of(kSpace) + 1);
  }

  const std::string& text_;
  const Marks& marks_;
  const std::vector<RenderedDialogue::Special>& specials_;
  const nlohmann::ordered_json& messages_;
  const AnswerHabits& habits_;
  std::vector<AnswerSpan> answers_;
};

std::vector<AnswerSpan> Generated(const MarkedText& text) {
  std::vector<AnswerSpan> answers;
  for (const TextMark& own : text.generated) {
    const auto inside = [&](const TextMark& mark) {
      return mark.source >= 0 && mark.begin <= own.end && mark.end >= own.begin;
    };
    const auto words = std::find_if(text.marks.begin(), text.marks.end(), inside);
    answers.push_back({own.begin, own.end, words == text.marks.end() ? AnswerSpan::kNobody : words->source});
  }
  return answers;
}

}  // namespace

void AnswerHabits::Learn(const RenderedDialogue& asked, const std::string& plain) {
  const std::string& text = asked.text.text;
  const Marks& marks = asked.text.marks;
  const auto question =
      std::find_if(marks.rbegin(), marks.rend(), [](const TextMark& mark) { return mark.source == 0; });
  const size_t behind = question == marks.rend() ? text.size() : question->end;
  after_question = text.substr(behind);
  size_t begin =
      static_cast<size_t>(std::mismatch(text.begin(), text.end(), plain.begin(), plain.end()).first - text.begin());
  begin = std::max(begin, behind);
  for (const auto& special : asked.specials) {
    if (special.begin < begin && begin < special.end) begin = special.begin;
  }
  prompt = text.substr(begin);
  for (size_t cut = 1; cut <= prompt.size(); ++cut) {
    const auto ends = [&](const auto& special) { return special.end == begin + cut; };
    const bool part = cut == prompt.size() || prompt[cut - 1] == '\n' ||
                      std::any_of(asked.specials.begin(), asked.specials.end(), ends);
    if (part && prompt.find_first_not_of(kSpace) < cut) cuts.push_back(cut);
  }
}

std::vector<AnswerSpan> FindAnswers(const RenderedDialogue& rendered, const nlohmann::ordered_json& messages,
                                    const AnswerHabits& habits) {
  if (!rendered.text.generated.empty()) return Generated(rendered.text);
  return Finder(rendered, messages, habits).Run();
}

}  // namespace cambium
