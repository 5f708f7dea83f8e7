#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace cambium {

using RecordJson = nlohmann::ordered_json;

// Fields of a record or a message that say something about it and change nothing.
bool IsHarmlessField(std::string_view name);
// The fields of a format that are read.
bool IsFieldOf(std::string_view format, std::string_view name);

// A field's value; null if it is missing or null.
const RecordJson* FieldOf(const RecordJson& record, const char* key);
// kData, naming the field, where it is missing or of another type.
const std::string& TextField(const RecordJson& record, const char* key);
const RecordJson& ListField(const RecordJson& record, const char* key);
std::string OptionalText(const RecordJson& record, const char* key);  // empty if missing or null

// What a field holds as itself or as a JSON text.
RecordJson ParsedField(const RecordJson& value, const std::string& name);

// Tools as templates take them: a list of objects; null: none. They may be a JSON text, and single ones too. `wrap`
// puts a bare function, as {"name", "parameters"}, below "function".
RecordJson ToolsOf(const RecordJson& value, const std::string& name, bool wrap);

// A list of calls below "function", of one bare call or several.
RecordJson CallsOf(const RecordJson& value, const std::string& name);

// Whether an answer is trained, by its message's "weight" and "train", which are taken out.
bool TakeLearned(RecordJson& message, const std::string& where);

}  // namespace cambium
