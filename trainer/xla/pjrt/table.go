package pjrt

// The plugin hands out one table: its size, its version, and the addresses of its functions. Names, order and the layout
// of arguments are those of the PJRT C API, major version 0. New functions and arguments are only ever appended.

// function is the place of a function in the table.
type function int

const (
	errorDestroy                     function = 0
	errorMessage                     function = 1
	errorGetCode                     function = 2
	pluginInitialize                 function = 3
	pluginAttributes                 function = 4
	eventDestroy                     function = 5
	eventAwait                       function = 8
	eventOnReady                     function = 9
	clientCreate                     function = 10
	clientDestroy                    function = 11
	clientPlatformName               function = 12
	clientPlatformVersion            function = 14
	clientAddressableDevices         function = 16
	clientCompile                    function = 20
	clientBufferFromHostBuffer       function = 22
	deviceDescriptionID              function = 23
	deviceDescriptionKind            function = 26
	deviceGetDescription             function = 29
	deviceLocalHardwareID            function = 31
	deviceMemoryStats                function = 34
	executableDestroy                function = 40
	executableNumOutputs             function = 44
	loadedExecutableDestroy          function = 50
	loadedExecutableGetExecutable    function = 51
	loadedExecutableExecute          function = 55
	bufferDestroy                    function = 58
	bufferElementType                function = 59
	bufferDimensions                 function = 60
	bufferToHostBuffer               function = 70
	bufferReadyEvent                 function = 72
	executableGetCompiledMemoryStats function = 96

	functions = 97 // entries of the table that are read
)

// names are those of the C API, for messages.
var names = map[function]string{
	errorDestroy:                     "PJRT_Error_Destroy",
	errorMessage:                     "PJRT_Error_Message",
	errorGetCode:                     "PJRT_Error_GetCode",
	pluginInitialize:                 "PJRT_Plugin_Initialize",
	pluginAttributes:                 "PJRT_Plugin_Attributes",
	eventDestroy:                     "PJRT_Event_Destroy",
	eventAwait:                       "PJRT_Event_Await",
	eventOnReady:                     "PJRT_Event_OnReady",
	clientCreate:                     "PJRT_Client_Create",
	clientDestroy:                    "PJRT_Client_Destroy",
	clientPlatformName:               "PJRT_Client_PlatformName",
	clientPlatformVersion:            "PJRT_Client_PlatformVersion",
	clientAddressableDevices:         "PJRT_Client_AddressableDevices",
	clientCompile:                    "PJRT_Client_Compile",
	clientBufferFromHostBuffer:       "PJRT_Client_BufferFromHostBuffer",
	deviceDescriptionID:              "PJRT_DeviceDescription_Id",
	deviceDescriptionKind:            "PJRT_DeviceDescription_Kind",
	deviceGetDescription:             "PJRT_Device_GetDescription",
	deviceLocalHardwareID:            "PJRT_Device_LocalHardwareId",
	deviceMemoryStats:                "PJRT_Device_MemoryStats",
	executableDestroy:                "PJRT_Executable_Destroy",
	executableNumOutputs:             "PJRT_Executable_NumOutputs",
	loadedExecutableDestroy:          "PJRT_LoadedExecutable_Destroy",
	loadedExecutableGetExecutable:    "PJRT_LoadedExecutable_GetExecutable",
	loadedExecutableExecute:          "PJRT_LoadedExecutable_Execute",
	bufferDestroy:                    "PJRT_Buffer_Destroy",
	bufferElementType:                "PJRT_Buffer_ElementType",
	bufferDimensions:                 "PJRT_Buffer_Dimensions",
	bufferToHostBuffer:               "PJRT_Buffer_ToHostBuffer",
	bufferReadyEvent:                 "PJRT_Buffer_ReadyEvent",
	executableGetCompiledMemoryStats: "PJRT_Executable_GetCompiledMemoryStats",
}

// optional functions may be missing; of the others every plugin that Load accepts has all.
var optional = map[function]bool{executableGetCompiledMemoryStats: true}

func (f function) String() string { return names[f] }

// Versions of the C API, PJRT_API_MAJOR and PJRT_API_MINOR.
const (
	major = 0
	// oldestMinor is that of the plugins of late 2024. The layouts of arguments.go were compared with the C headers of
	// minor versions 54, 58, 67, 81, 83, 98 and 104.
	oldestMinor = 54
	// newestMinor is the last whose argument structs are known to be no longer than those of arguments.go.
	newestMinor = 104
)

// tableHead comes before the functions.
type tableHead struct {
	size       uintptr
	extensions uintptr
	version    struct {
		header
		major, minor int32
	}
}
