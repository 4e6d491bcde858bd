// What `require('@drizzle-keystore/native')` gives: see index.d.ts.
#include <node_api.h>

#include <new>

#include <openssl/crypto.h>

#include "core.h"
#include "keys.h"
#include "token.h"
#include "values.h"

#ifdef KEYSTORE_LIMIT
#include "limit.h"
#endif

namespace keystore {
namespace {

// Raised with every change of what JavaScript calls. drizzle-keystore uses no other.
constexpr uint32_t kInterfaceVersion = 1;

// The cores of one environment of Node. A worker thread has an environment of its own.
struct Instance {
  struct Entry {
    Core* core;
    Entry* next;
  };
  Entry* cores = nullptr;
};

void EndInstance(napi_env env, void* data, void*) {
  Instance* const instance = static_cast<Instance*>(data);
  while (instance->cores != nullptr) {
    Instance::Entry* const entry = instance->cores;
    instance->cores = entry->next;
    entry->core->EnvironmentEnds(env);
    entry->core->Release();
    delete entry;
  }
  delete instance;
}

// Keeps the core until the environment ends: its classes may be used as long.
bool Keep(napi_env env, Core* core) {
  void* data = nullptr;
  Instance::Entry* const entry = new (std::nothrow) Instance::Entry();
  if (entry == nullptr || napi_get_instance_data(env, &data) != napi_ok || data == nullptr) {
    delete entry;
    Throw(env, "the core cannot be kept");
    return false;
  }
  Instance* const instance = static_cast<Instance*>(data);
  *entry = {core, instance->cores};
  instance->cores = entry;
  return true;
}

// Checks a token, and keeps its bytes for the call that opens it with the same ticket.
uint32_t CheckAndKeep(Core* core, const String& token, double ticket) {
  CheckedToken& checked = core->checked;
  checked.ticket = 0;
  if (token.length() > CheckedToken::kMostCharacters) return CheckToken(token.text(), token.length());
  checked.is_v3 = true;
  checked.length = ReadToken(Format::kV3, token.text(), token.length(), checked.bytes);
  if (checked.length == 0) {
    checked.is_v3 = false;
    checked.length = ReadToken(Format::kV2, token.text(), token.length(), checked.bytes);
  }
  if (checked.length == 0) {
    // Perhaps a plaintext, given by mistake.
    OPENSSL_cleanse(checked.bytes, sizeof(checked.bytes));
    return 0;
  }
  checked.ticket = ticket;
  return checked.is_v3 ? VersionOf(checked.bytes) : 1;
}

// `versionOf(token, ticket)`: the version of the key that a whole token names, 1 for one of format v2, 0 if it is malformed
napi_value TokenVersion(napi_env env, napi_callback_info info) {
  Call<2> call;
  if (!call.Read(env, info)) return nullptr;
  Core* const core = static_cast<Core*>(call.data);
  double ticket = 0;
  if (napi_get_value_double(env, call.arguments[1], &ticket) != napi_ok) {
    ThrowType(env, "ticket must be a number");
    return nullptr;
  }
  // It may be a plaintext, given by mistake.
  String text(core->string, Scratch::kSecret);
  const String::Status status = text.Read(env, call.arguments[0]);
  if (status == String::Status::kNoString) ThrowType(env, "token must be a string");
  if (status != String::Status::kRead) return nullptr;
  const uint32_t version = CheckAndKeep(core, text, ticket);
  if (version != 0) text.IsPublic();
  napi_value value = nullptr;
  if (napi_create_uint32(env, version, &value) != napi_ok) Throw(env, "the result cannot be made");
  return value;
}

// `forgetNonces()`
napi_value ForgetNonces(napi_env env, napi_callback_info info) {
  Call<1> call;
  if (!call.Read(env, info)) return nullptr;
  static_cast<Core*>(call.data)->nonces.Forget();
  return Undefined(env);
}

// `createCore(randomBytes)`
napi_value CreateCore(napi_env env, napi_callback_info info) {
  Call<1> call;
  if (!call.Read(env, info)) return nullptr;
  napi_valuetype type = napi_undefined;
  if (napi_typeof(env, call.arguments[0], &type) != napi_ok || type != napi_function) {
    ThrowType(env, "randomBytes must be a function");
    return nullptr;
  }
  Core* const core = Core::Make(env, call.arguments[0]);
  if (core == nullptr) return nullptr;
  if (!Keep(env, core)) {
    core->EnvironmentEnds(env);
    core->Release();
    return nullptr;
  }
  const napi_value v3_key = DefineV3Key(env, core);
  const napi_value v2_key = v3_key == nullptr ? nullptr : DefineV2Key(env, core);
  if (v2_key == nullptr) return nullptr;
  const napi_property_descriptor properties[] = {
      {"V3Key", nullptr, nullptr, nullptr, nullptr, v3_key, napi_enumerable, nullptr},
      {"V2Key", nullptr, nullptr, nullptr, nullptr, v2_key, napi_enumerable, nullptr},
      {"versionOf", nullptr, TokenVersion, nullptr, nullptr, nullptr, napi_enumerable, core},
      {"forgetNonces", nullptr, ForgetNonces, nullptr, nullptr, nullptr, napi_enumerable, core},
  };
  napi_value made = nullptr;
  if (napi_create_object(env, &made) != napi_ok ||
      napi_define_properties(env, made, sizeof(properties) / sizeof(*properties), properties) != napi_ok) {
    Throw(env, "the core cannot be made");
    return nullptr;
  }
  return made;
}

napi_value Start(napi_env env, napi_value exports) {
  Instance* const instance = new (std::nothrow) Instance();
  if (instance == nullptr || napi_set_instance_data(env, instance, EndInstance, nullptr) != napi_ok) {
    delete instance;
    Throw(env, "the addon cannot be started");
    return nullptr;
  }
  napi_value version = nullptr;
  napi_value openssl = nullptr;
  if (napi_create_uint32(env, kInterfaceVersion, &version) != napi_ok ||
      napi_create_string_latin1(env, OpenSSL_version(OPENSSL_VERSION_STRING), NAPI_AUTO_LENGTH, &openssl) != napi_ok) {
    Throw(env, "the addon cannot be started");
    return nullptr;
  }
  const napi_property_descriptor properties[] = {
      {"interfaceVersion", nullptr, nullptr, nullptr, nullptr, version, napi_enumerable, nullptr},
      {"openssl", nullptr, nullptr, nullptr, nullptr, openssl, napi_enumerable, nullptr},
      {"createCore", nullptr, CreateCore, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
#ifdef KEYSTORE_LIMIT
      {"limit", nullptr, Limit, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
#endif
  };
  if (napi_define_properties(env, exports, sizeof(properties) / sizeof(*properties), properties) != napi_ok) {
    Throw(env, "the addon cannot be started");
    return nullptr;
  }
  return exports;
}

}  // namespace
}  // namespace keystore

NAPI_MODULE_INIT() { return keystore::Start(env, exports); }
