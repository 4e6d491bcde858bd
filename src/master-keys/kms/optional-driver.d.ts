/** It is compiled where it is installed, and not needed to develop the rest. */
declare module 'pkcs11js' {
  const driver: import('./pkcs11-driver.js').Pkcs11Driver
  export default driver
}
