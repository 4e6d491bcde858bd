/** Connects to a server of libsql. Nothing else imports its client. */
import type { LibsqlClient } from './async-sqlite.js'
import { storeError } from './driver-error.js'
import { driverMissing } from './url.js'

/** @param url `libsql://…`, with its token as `?authToken=…` @throws ERR_STORE */
export async function openLibsql(url: string): Promise<LibsqlClient> {
  const { createClient } = await loadLibsql()
  try {
    return createClient({ url })
  } catch (error) {
    throw storeError('connect to the libsql server', error)
  }
}

async function loadLibsql() {
  try {
    // Inside of "try", so that bundlers take it for optional and leave it alone where it is not installed.
    return await import('@libsql/client')
  } catch (error) {
    throw driverMissing('@libsql/client', error)
  }
}
