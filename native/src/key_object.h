// A C++ key inside a JavaScript object: made by its class's constructor, deleted when the object is collected.
#pragma once
#include <cstdlib>
#include <cstring>
#include <new>

#include "core.h"
#include "values.h"

namespace keystore {

// What a key takes outside JavaScript's heap, about: its cipher context and this object.
constexpr int64_t kOutsideBytes = 1100;

template <typename Key>
struct KeyObject {
  Key key;
  Core* core = nullptr;
  // What tokens are bound to that are sealed or opened without an AAD.
  Bytes aad = {nullptr, 0};

  KeyObject() = default;
  ~KeyObject() { std::free(const_cast<uint8_t*>(aad.data)); }
  KeyObject(const KeyObject&) = delete;
  KeyObject& operator=(const KeyObject&) = delete;

  bool KeepAad(Bytes given) {
    if (given.length == 0) return true;
    uint8_t* const copy = static_cast<uint8_t*>(std::malloc(given.length));
    if (copy == nullptr) return false;
    std::memcpy(copy, given.data, given.length);
    aad = {copy, given.length};
    return true;
  }

  // The argument, or something else for undefined.
  static bool AadOr(Bytes otherwise, napi_env env, napi_value argument, Bytes* bytes) {
    napi_valuetype type = napi_undefined;
    if (napi_typeof(env, argument, &type) != napi_ok || type != napi_undefined)
      return BytesOf(env, argument, "aad", bytes);
    *bytes = otherwise;
    return true;
  }

  // The AAD of a call.
  bool AadOf(napi_env env, napi_value argument, Bytes* bytes) const { return AadOr(aad, env, argument, bytes); }

  // `new Class(key, aad)`, where `key` has 32 bytes, which the caller may wipe afterwards.
  static napi_value Construct(napi_env env, napi_callback_info info) {
    Call<2> call;
    if (!call.Read(env, info)) return nullptr;
    napi_value target = nullptr;
    if (napi_get_new_target(env, info, &target) != napi_ok || target == nullptr) {
      ThrowType(env, "a key is made with new");
      return nullptr;
    }
    Bytes bytes;
    Bytes aad;
    if (!BytesOf(env, call.arguments[0], "key", kKeyBytes, &bytes) ||
        !AadOr({nullptr, 0}, env, call.arguments[1], &aad))
      return nullptr;
    Core* const core = static_cast<Core*>(call.data);
    KeyObject* const made = new (std::nothrow) KeyObject();
    if (made == nullptr) {
      Throw(env, "there is no memory");
      return nullptr;
    }
    made->core = core;
    if (!made->key.Begin(core, bytes.data)) {
      Throw(env, "OpenSSL did not take the key");
    } else if (!made->KeepAad(aad)) {
      Throw(env, "there is no memory");
    } else if (napi_wrap(env, call.self, made, Collect, nullptr, nullptr) != napi_ok) {
      Throw(env, "the key cannot be kept");
    } else {
      core->Hold();
      int64_t total = 0;
      napi_adjust_external_memory(env, kOutsideBytes, &total);
      return call.self;
    }
    delete made;
    return nullptr;
  }

  static void Collect(napi_env env, void* data, void*) {
    KeyObject* const made = static_cast<KeyObject*>(data);
    Core* const core = made->core;
    delete made;
    // They may hold what was derived of this key.
    core->sealing.Forget();
    core->opening.Forget();
    core->Release();
    int64_t total = 0;
    napi_adjust_external_memory(env, -kOutsideBytes, &total);
  }

  // What a method is called on. V8 has made sure that it is an object of this class; an exception is pending where this is null.
  static KeyObject* Of(napi_env env, napi_value self) {
    void* data = nullptr;
    if (napi_unwrap(env, self, &data) == napi_ok) return static_cast<KeyObject*>(data);
    ThrowType(env, "this is no key");
    return nullptr;
  }
};

}  // namespace keystore
