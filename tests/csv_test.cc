#include "io/csv.h"

#include <gtest/gtest.h>

#include <fstream>
#include <optional>

#include "file_testing.h"
#include "io/json_lines.h"
#include "temp_folder.h"

namespace cambium {
namespace {

using Rows = std::vector<std::vector<std::string>>;

Rows Read(std::string_view text, char separator = ',') {
  CsvRows rows(text, separator);
  Rows all;
  for (std::vector<std::string> cells; rows.Next(cells);) all.push_back(cells);
  return all;
}

TEST(Csv, ReadsWhatPythonsModuleWrites) {
  // csv.writer(lineterminator="\r\n").writerows([["a", "b"], ["x,y", 'say "hi"'], ["two\nlines", ""], ["é木", " spaced
  // "]])
  EXPECT_EQ(Read("a,b\r\n\"x,y\",\"say \"\"hi\"\"\"\r\n\"two\nlines\",\r\n\xC3\xA9\xE6\x9C\xA8, spaced \r\n"),
            (Rows{{"a", "b"}, {"x,y", "say \"hi\""}, {"two\nlines", ""}, {"\xC3\xA9\xE6\x9C\xA8", " spaced "}}));
  EXPECT_EQ(Read("a\tb\n1,5\t\"2\t3\"", '\t'), (Rows{{"a", "b"}, {"1,5", "2\t3"}}));
  EXPECT_EQ(Read(""), Rows{});
  EXPECT_EQ(Read("\n\n,\n\n"), (Rows{{"", ""}}));
}

TEST(Csv, SaysWhatIsWrongAndGoesOn) {
  CsvRows rows("a,b\n\"x\"y,z\nc,d\n\"open", ',');
  std::vector<std::string> cells;
  EXPECT_TRUE(rows.Next(cells));
  EXPECT_THROW(rows.Next(cells), Error);
  EXPECT_EQ(rows.line(), 2);
  EXPECT_TRUE(rows.Next(cells));
  EXPECT_EQ(cells, (std::vector<std::string>{"c", "d"}));
  EXPECT_THROW(rows.Next(cells), Error);
  EXPECT_FALSE(rows.Next(cells));
}

TEST(Csv, ATableIsRecordsByTheNamesOfItsColumns) {
  const TempFolder folder;
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(folder / name, std::ios::binary) << text;
    return folder / name;
  };
  JsonLines lines(write("t.csv", "\xEF\xBB\xBFprompt,completion,id\nWhy?,\"Because,\nso.\",7\nHow?,Thus.,\n"));
  ASSERT_TRUE(lines.Next());
  EXPECT_EQ(lines.record().dump(), R"({"prompt":"Why?","completion":"Because,\nso.","id":"7"})");
  EXPECT_EQ(lines.line(), 2);
  ASSERT_TRUE(lines.Next());
  EXPECT_EQ(lines.record().dump(), R"({"prompt":"How?","completion":"Thus."})");
  EXPECT_EQ(lines.line(), 4);
  EXPECT_FALSE(lines.Next());
  testing::ExpectError(ErrorCode::kData, {"line 2", "3 cells, the first row names 2"}, [&] {
    JsonLines bad(write("w.tsv", "a\tb\n1\t2\t3\n"));
    bad.Next();
  });
  testing::ExpectError(ErrorCode::kData, {"\"a\" is there twice"}, [&] { JsonLines(write("d.csv", "a,a\n")); });
  testing::ExpectError(ErrorCode::kData, {"column \"b\" is not UTF-8"}, [&] {
    JsonLines bad(write("u.csv", "a,b\n1,\xFF\n"));
    bad.Next();
  });
}

}  // namespace
}  // namespace cambium
