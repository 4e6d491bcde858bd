// The addon: of prebuilds/ for this platform, or of build/, where it was compiled at the installation.
require('./complete.js').assertComplete(pathOfAddon())
// Tools that gather an application's files know this form of the call.
module.exports = require('node-gyp-build')(__dirname)

/** @throws ERR_ADDON_NOT_BUILT */
function pathOfAddon() {
  try {
    return require('node-gyp-build').path(__dirname)
  } catch {
    throw Object.assign(
      new Error(
        'There is no addon of @drizzle-keystore/native for this platform, and it was not compiled: see its README',
      ),
      { code: 'ERR_ADDON_NOT_BUILT' },
    )
  }
}
